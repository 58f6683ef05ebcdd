"""The gate of a model: permits, the queue in order, and the honest no."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Overloaded
from gateway.admission import Gate


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def enter(gate: Gate, log: list[int], number: int) -> asyncio.Task[None]:
    async def wait() -> None:
        await gate.enter()
        log.append(number)

    return asyncio.create_task(wait())


def leave(gate: Gate) -> None:
    gate.leave(monotonic())


async def test_permits_are_taken_at_once_and_then_there_are_none() -> None:
    gate = Gate("m", 2, 5)
    assert gate.try_enter()
    assert gate.try_enter()
    assert not gate.try_enter()
    leave(gate)
    assert gate.try_enter()


async def test_who_waits_is_let_in_in_order_one_for_each_that_leaves() -> None:
    gate = Gate("m", 1, 5)
    log: list[int] = []
    tasks = [enter(gate, log, number) for number in range(4)]
    await turn()
    assert (log, gate.queued) == ([0], 3)
    for number in (1, 2, 3):
        leave(gate)
        assert not gate.try_enter()  # nobody overtakes the queue
        await turn()
        assert log == list(range(number + 1))
    await asyncio.gather(*tasks)
    assert gate.queued == 0


async def test_leaving_the_queue_frees_its_place() -> None:
    gate = Gate("m", 1, 2)
    log: list[int] = []
    tasks = [enter(gate, log, number) for number in range(3)]
    await turn()
    with pytest.raises(Overloaded):
        await gate.enter()
    tasks[1].cancel()
    await turn()
    assert gate.queued == 1
    tasks.append(enter(gate, log, 3))
    await turn()
    leave(gate)
    leave(gate)
    await turn()
    assert log == [0, 2, 3]


async def test_a_permit_that_comes_as_the_waiter_leaves_goes_to_the_next() -> None:
    gate = Gate("m", 1, 5)
    log: list[int] = []
    _, leaver, follower = [enter(gate, log, number) for number in range(3)]
    await turn()
    leave(gate)  # hands the permit to the leaver …
    leaver.cancel()  # … who has left before it could know
    await turn()
    assert leaver.cancelled()
    assert log == [0, 2]
    await follower
    leave(gate)
    assert gate.try_enter()


async def test_a_waiter_that_left_just_before_a_permit_came_is_passed_over() -> None:
    gate = Gate("m", 1, 5)
    log: list[int] = []
    _, leaver, follower = [enter(gate, log, number) for number in range(3)]
    await turn()
    leaver.cancel()
    leave(gate)
    await turn()
    assert leaver.cancelled()
    assert log == [0, 2]
    await follower
    assert gate.queued == 0


@pytest.mark.parametrize("is_permit_first", [True, False])
async def test_the_last_waiter_to_leave_leaves_the_permit_free(is_permit_first: bool) -> None:
    gate = Gate("m", 1, 5)
    assert gate.try_enter()
    leaver = enter(gate, [], 0)
    await turn()
    if is_permit_first:
        leave(gate)
    leaver.cancel()
    if not is_permit_first:
        leave(gate)
    await turn()
    assert leaver.cancelled()
    assert gate.try_enter()
    assert not gate.try_enter()


async def test_a_full_queue_says_no_at_once_with_the_limits_and_a_wait() -> None:
    gate = Gate("small", 2, 1)
    assert gate.try_enter()
    assert gate.try_enter()
    waiting = enter(gate, [], 0)
    await turn()
    with pytest.raises(Overloaded) as raised:
        await gate.enter()
    error = raised.value
    assert all(part in error.message for part in ("'small'", "2 requests run", "1 wait", "at most 1"))
    assert error.retry_after_seconds is not None
    waiting.cancel()
    await turn()


async def test_without_a_queue_what_does_not_fit_is_refused() -> None:
    gate = Gate("m", 1, 0)
    await gate.enter()
    with pytest.raises(Overloaded):
        await gate.enter()


@pytest.mark.parametrize(("permits", "queued"), [(1, 0), (1, 3), (4, 8)])
async def test_the_wait_it_tells_is_what_those_before_will_take(permits: int, queued: int) -> None:
    gate = Gate("m", permits, queued)
    for _ in range(100):  # the gate learns that requests take half a second
        assert gate.try_enter()
        gate.leave(monotonic() - 0.5)
    tasks = [enter(gate, [], number) for number in range(permits + queued)]
    await turn()
    with pytest.raises(Overloaded) as raised:
        await gate.enter()
    assert raised.value.retry_after_seconds == pytest.approx(0.5 * (queued + 1) / permits, rel=0.05)
    for task in tasks:
        task.cancel()
    await turn()


async def test_without_permits_nobody_waits() -> None:
    gate = Gate("m", None, 0)
    for _ in range(1000):
        assert gate.try_enter()
        await gate.enter()
    leave(gate)
    assert gate.queued == 0


@given(
    st.integers(1, 3), st.integers(0, 4), st.lists(st.tuples(st.sampled_from("+-xX"), st.integers(0, 9)), max_size=40)
)
def test_whatever_happens_no_permit_is_lost_or_made(permits: int, places: int, steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        gate = Gate("m", permits, places)
        inside: list[int] = []
        waiting: list[asyncio.Task[None]] = []

        def free() -> None:
            if inside:
                inside.pop()
                leave(gate)

        for way, which in steps:
            queued = [task for task in waiting if not task.done()]
            if way == "+":
                waiting.append(enter(gate, inside, 0))
            elif way == "-":
                free()
            elif queued:  # a waiter leaves in the same turn as a permit comes free, before it or after
                if way == "X":
                    free()
                queued[which % len(queued)].cancel()
                if way == "x":
                    free()
            if which % 2:
                await turn()
            assert len(inside) <= permits
        await turn()
        assert gate.queued <= places
        while inside:
            free()
            await turn()
        assert gate.queued == 0
        assert [gate.try_enter() for _ in range(permits + 1)] == [True] * permits + [False]
        for task in waiting:
            assert task.done()
            assert task.cancelled() or isinstance(task.exception(), Overloaded | None)

    asyncio.run(run())
