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


async def test_a_slot_that_is_given_to_who_leaves_in_that_turn_goes_to_the_next() -> None:
    slots = Slots(1)
    await slots.acquire()
    leaving, staying = (asyncio.create_task(slots.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    slots.release()
    leaving.cancel()
    await asyncio.wait_for(staying, 5)
    assert leaving.cancelled()
    assert (slots.running, slots.waiting) == (1, 0)
