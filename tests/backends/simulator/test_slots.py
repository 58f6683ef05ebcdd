"""Slots of the simulator: who waits, who leaves, who comes meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from backends.simulator.slots import Slots


async def test_who_comes_while_the_only_one_who_waits_is_leaving_gets_the_slot() -> None:
    slots = Slots(1)
    await slots.acquire()
    leaving = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    leaving.cancel()
    slots.release()
    assert (slots.running, slots.waiting) == (0, 1)
    await asyncio.wait_for(slots.acquire(), 5)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (slots.running, slots.waiting) == (1, 0)


async def test_a_slot_given_to_one_who_leaves_goes_to_the_next() -> None:
    slots = Slots(1)
    await slots.acquire()
    leaving = asyncio.create_task(slots.acquire())
    staying = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    assert slots.waiting == 2
    # In one turn of the loop the slot is given to the first in the queue, and that one is cancelled.
    slots.release()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await staying
    assert (slots.running, slots.waiting) == (1, 0)


async def test_a_slot_is_not_given_to_one_who_has_left() -> None:
    slots = Slots(1)
    await slots.acquire()
    leaving = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    leaving.cancel()
    slots.release()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (slots.running, slots.waiting) == (0, 0)
