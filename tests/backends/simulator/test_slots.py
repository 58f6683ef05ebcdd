"""Slots of the simulator: who waits, who leaves, who comes meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from backends.simulator.slots import Slots


async def waited_for(count: int) -> tuple[Slots, list[asyncio.Task[None]]]:
    """The one slot there is, taken, and so many who wait for it."""
    slots = Slots(1)
    await slots.acquire()
    waiting = [asyncio.create_task(slots.acquire()) for _ in range(count)]
    await asyncio.sleep(0)
    assert slots.waiting == count
    return slots, waiting


async def test_who_comes_while_the_only_one_who_waits_is_leaving_gets_the_slot() -> None:
    slots, (leaving,) = await waited_for(1)
    leaving.cancel()
    slots.release()
    assert (slots.running, slots.waiting) == (0, 1)
    await asyncio.wait_for(slots.acquire(), 5)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (slots.running, slots.waiting) == (1, 0)


async def test_a_slot_given_to_one_who_leaves_goes_to_the_next() -> None:
    slots, (leaving, staying) = await waited_for(2)
    # In one turn of the loop the slot is given to the first in the queue, and that one is cancelled.
    slots.release()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await staying
    assert (slots.running, slots.waiting) == (1, 0)


async def test_a_slot_is_not_given_to_one_who_has_left() -> None:
    slots, (leaving,) = await waited_for(1)
    leaving.cancel()
    slots.release()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (slots.running, slots.waiting) == (0, 0)
