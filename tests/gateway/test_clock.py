"""The shared clock: each member's time comes, late by a tick at most, and silence costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from backends.errors import ServingError
from gateway.clock import TICK_SECONDS, Clock
from tests.processes import holds


class Member:
    """Writes its ticks down. `then` is called at each."""

    def __init__(self, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        self.due = monotonic() + seconds
        self.ticks: list[float] = []
        self.then = then

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.due = float("inf")
        self.then()

    def interrupt(self, error: ServingError) -> None:
        raise AssertionError(error)


async def test_a_member_is_called_when_it_is_due_and_not_before() -> None:
    clock = Clock()
    soon, later, never = Member(0.0), Member(4 * TICK_SECONDS), Member(1000.0)
    soon_due, later_due = soon.due, later.due
    for member in (soon, later, never):
        clock.add(member)
    await holds(lambda: bool(later.ticks))
    assert len(soon.ticks) == len(later.ticks) == 1
    assert soon_due <= soon.ticks[0] < later_due <= later.ticks[0]
    assert not never.ticks


async def test_a_member_that_was_taken_out_is_not_called() -> None:
    clock = Clock()
    gone, stays = Member(0.0), Member(TICK_SECONDS)
    clock.add(gone)
    clock.add(stays)
    clock.discard(gone)
    clock.discard(gone)
    await holds(lambda: bool(stays.ticks))
    assert not gone.ticks


async def test_without_members_no_timer_runs_and_the_next_one_starts_it_again() -> None:
    clock = Clock()
    first = Member(0.0)
    clock.add(first)
    await holds(lambda: bool(first.ticks))
    clock.discard(first)
    await holds(lambda: clock._timer is None)
    second = Member(0.0)
    clock.add(second)
    await holds(lambda: bool(second.ticks))


async def test_a_member_may_take_others_out_and_put_others_in_as_it_is_called() -> None:
    clock = Clock()
    late = Member(0.0)

    def change() -> None:
        clock.discard(first)
        clock.add(late)

    first = Member(0.0, change)
    clock.add(first)
    await holds(lambda: bool(late.ticks))
    assert clock.members == {late}


async def test_a_member_that_breaks_does_not_stop_the_clock_for_the_others() -> None:
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context["exception"]))

    def fall() -> None:
        raise RuntimeError("broken")

    clock = Clock()
    members = [Member(0.0, fall), Member(0.0), Member(2 * TICK_SECONDS)]
    for member in members:
        clock.add(member)
    await holds(lambda: all(member.ticks for member in members))
    assert [str(error) for error in broken] == ["broken"]
