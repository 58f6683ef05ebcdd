"""The gate of a model: permits, the queue, who is next, and the honest no."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Overloaded
from gateway.admission import Gate
from gateway.fairness import Permit
from gateway.tenants import ANYONE, Limits, Tenant

A = Tenant("a", Limits())
B = Tenant("b", Limits())
BULK = Tenant("c", Limits(priority="bulk"))


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Room:
    """A gate and who is behind it."""

    def __init__(self, permits: int | None, places: int, name: str = "m") -> None:
        self.gate = Gate(name, permits, places)
        self.inside: list[Permit] = []

    def enter(self, log: list[int], number: int, tenant: Tenant = ANYONE) -> asyncio.Task[None]:
        async def wait() -> None:
            self.inside.append(await self.gate.enter(tenant))
            log.append(number)

        return asyncio.create_task(wait())

    def try_enter(self) -> bool:
        permit = self.gate.try_enter()
        if permit is not None:
            self.inside.append(permit)
        return permit is not None

    def leave(self, *, after: float = 0.0, tokens: int = 0) -> None:
        """Who is in longest leaves, after so many seconds."""
        permit = self.inside.pop(0)
        self.gate._entered_sum -= after
        permit.entered_at -= after
        self.gate.leave(permit, tokens)


async def test_permits_are_taken_at_once_and_then_there_are_none() -> None:
    room = Room(2, 5)
    assert room.try_enter()
    assert room.try_enter()
    assert not room.try_enter()
    room.leave()
    assert room.try_enter()


async def test_who_waits_is_let_in_in_order_one_for_each_that_leaves() -> None:
    room = Room(1, 5)
    log: list[int] = []
    tasks = [room.enter(log, number) for number in range(4)]
    await turn()
    assert (log, room.gate.queued) == ([0], 3)
    for number in (1, 2, 3):
        room.leave()
        assert not room.try_enter()  # nobody overtakes the queue
        await turn()
        assert log == list(range(number + 1))
    await asyncio.gather(*tasks)
    assert room.gate.queued == 0


async def test_leaving_the_queue_frees_its_place() -> None:
    room = Room(1, 2)
    log: list[int] = []
    tasks = [room.enter(log, number) for number in range(3)]
    await turn()
    with pytest.raises(Overloaded):
        await room.gate.enter()
    tasks[1].cancel()
    await turn()
    assert room.gate.queued == 1
    tasks.append(room.enter(log, 3))
    await turn()
    room.leave()
    await turn()
    room.leave()
    await turn()
    assert log == [0, 2, 3]


async def test_a_permit_that_comes_as_the_waiter_leaves_goes_to_the_next() -> None:
    room = Room(1, 5)
    log: list[int] = []
    _, leaver, follower = [room.enter(log, number) for number in range(3)]
    await turn()
    room.leave()  # hands the permit to the leaver …
    leaver.cancel()  # … who has left before it could know
    await turn()
    assert leaver.cancelled()
    assert log == [0, 2]
    await follower
    room.leave()
    assert room.try_enter()


async def test_a_permit_that_was_not_used_costs_its_tenant_nothing() -> None:
    room = Room(1, 5)
    room.enter([], 0, B)
    await turn()
    leaver = asyncio.create_task(room.gate.enter(A, tokens=500))
    await turn()
    log: list[int] = []
    room.enter(log, 1, B)
    await turn()
    room.leave(tokens=50)
    leaver.cancel()
    room.enter(log, 2, A)
    await turn()
    room.leave()
    await turn()
    assert log == [1, 2]
    assert room.gate._lanes.lane(A).counter < 500


async def test_a_waiter_that_left_just_before_a_permit_came_is_passed_over() -> None:
    room = Room(1, 5)
    log: list[int] = []
    _, leaver, follower = [room.enter(log, number) for number in range(3)]
    await turn()
    leaver.cancel()
    room.leave()
    await turn()
    assert leaver.cancelled()
    assert log == [0, 2]
    await follower
    assert room.gate.queued == 0


@pytest.mark.parametrize("is_permit_first", [True, False])
async def test_the_last_waiter_to_leave_leaves_the_permit_free(is_permit_first: bool) -> None:
    room = Room(1, 5)
    assert room.try_enter()
    leaver = room.enter([], 0)
    await turn()
    if is_permit_first:
        room.leave()
    leaver.cancel()
    if not is_permit_first:
        room.leave()
    await turn()
    assert leaver.cancelled()
    assert room.try_enter()
    assert not room.try_enter()


async def test_a_full_queue_says_no_at_once_with_the_limits_and_a_wait() -> None:
    room = Room(2, 1, "small")
    assert room.try_enter()
    assert room.try_enter()
    waiting = room.enter([], 0)
    await turn()
    with pytest.raises(Overloaded) as raised:
        await room.gate.enter()
    error = raised.value
    assert all(part in error.message for part in ("'small'", "2 requests run", "1 wait", "at most 1"))
    assert error.retry_after_seconds is not None
    waiting.cancel()
    await turn()


async def test_without_a_queue_what_does_not_fit_is_refused() -> None:
    room = Room(1, 0)
    await room.gate.enter()
    with pytest.raises(Overloaded):
        await room.gate.enter()


async def test_a_tenant_that_fills_the_queue_gives_its_newest_place_to_another() -> None:
    room = Room(1, 3)
    log: list[int] = []
    room.enter(log, 0, A)
    await turn()
    flood = [room.enter(log, number, A) for number in range(1, 4)]
    await turn()
    other = room.enter(log, 10, B)
    await turn()
    assert isinstance(flood[-1].exception(), Overloaded)
    assert room.gate.queued_by_tenant() == {"a": 2, "b": 1}
    with pytest.raises(Overloaded):  # it has the most places still: its own newcomer has to go
        await room.gate.enter(A)
    for _ in range(3):
        room.leave(tokens=10)
        await turn()
    await asyncio.gather(other, *flood[:-1])
    assert log.index(10) == 1


async def test_in_a_full_queue_bulk_gives_way_to_a_class_before_it_and_never_takes_a_place_from_it() -> None:
    room = Room(1, 2)
    room.enter([], 0, A)
    await turn()
    bulk = [room.enter([], number, BULK) for number in range(2)]
    await turn()
    room.enter([], 3, A)
    room.enter([], 4, A)
    await turn()
    assert all(isinstance(task.exception(), Overloaded) for task in bulk)
    with pytest.raises(Overloaded):
        await room.gate.enter(BULK)


@pytest.mark.parametrize(("permits", "queued"), [(1, 0), (1, 3), (4, 8)])
async def test_the_wait_it_tells_is_what_those_before_will_take(permits: int, queued: int) -> None:
    room = Room(permits, queued)
    for _ in range(100):  # the gate learns that requests take half a second
        assert room.try_enter()
        room.leave(after=0.5)
    tasks = [room.enter([], number) for number in range(permits + queued)]
    await turn()
    with pytest.raises(Overloaded) as raised:
        await room.gate.enter()
    assert raised.value.retry_after_seconds == pytest.approx(0.5 * (queued + 1) / permits, rel=0.05)
    for task in tasks:
        task.cancel()
    await turn()


async def test_the_wait_is_each_tenants_own() -> None:
    room = Room(1, 6)
    for _ in range(100):
        assert room.try_enter()
        room.leave(after=1.0)
    room.enter([], 0)
    await turn()
    for tenant in (A, A, A, A, BULK, BULK):
        room.enter([], 0, tenant)
    await turn()
    lanes = room.gate._lanes
    waits = [room.gate._overloaded(lanes.lane(tenant)).retry_after_seconds for tenant in (A, B, BULK)]
    # After its own four; in turns with the other's, one each; after all of the class before it, and its own two.
    assert waits == pytest.approx([5, 2, 7], rel=0.05)


@pytest.mark.parametrize("ended", range(20))
async def test_the_wait_follows_at_once_when_requests_become_longer(ended: int) -> None:
    room = Room(8, 8)
    for _ in range(100):
        assert room.try_enter()
        room.leave(after=1.0)
    # From now on they take ten seconds. Their permits were got one after the other, and so they end.
    for number in range(8):
        assert room.try_enter()
        age = 10.0 if ended == 0 else 10.0 * (8 - number) / 8
        room.gate._entered_sum -= age
        room.inside[-1].entered_at -= age
    for _ in range(ended):
        room.leave(after=10.0 - (asyncio.get_running_loop().time() - room.inside[0].entered_at))
        assert room.try_enter()
        room.gate._entered_sum -= 5.0
        room.inside[-1].entered_at -= 5.0
    lanes = room.gate._lanes
    wait = room.gate._overloaded(lanes.lane(ANYONE)).retry_after_seconds
    assert wait is not None
    assert wait * 8 == pytest.approx(10, rel=0.55 if ended < 8 else 0.2)


async def test_without_permits_nobody_waits() -> None:
    room = Room(None, 0)
    for _ in range(1000):
        assert room.try_enter()
        room.inside.append(await room.gate.enter())
    room.leave()
    assert (room.gate.queued, room.gate.running) == (0, 1999)


async def test_more_permits_let_more_in_and_fewer_wait_until_enough_have_left() -> None:
    room = Room(1, 5)
    log: list[int] = []
    for number in range(5):
        room.enter(log, number)
    await turn()
    room.gate.resize(3)
    await turn()
    assert log == [0, 1, 2]
    room.gate.resize(1)
    room.leave()
    room.leave()
    await turn()
    assert log == [0, 1, 2]
    room.leave()
    await turn()
    assert log == [0, 1, 2, 3]
    room.gate.resize(None)
    await turn()
    assert log == [0, 1, 2, 3, 4]


@given(
    st.integers(1, 3), st.integers(0, 4), st.lists(st.tuples(st.sampled_from("+-xX"), st.integers(0, 9)), max_size=40)
)
def test_whatever_happens_no_permit_is_lost_or_made(permits: int, places: int, steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        room = Room(permits, places)
        waiting: list[asyncio.Task[None]] = []

        def free() -> None:
            if room.inside:
                room.leave(tokens=7)

        for way, which in steps:
            queued = [task for task in waiting if not task.done()]
            if way == "+":
                waiting.append(room.enter([], 0, (A, B, BULK, ANYONE)[which % 4]))
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
            assert len(room.inside) <= permits
        await turn()
        assert room.gate.queued <= places
        assert room.gate.running == len(room.inside)
        while room.inside:
            free()
            await turn()
        assert (room.gate.queued, room.gate.running) == (0, 0)
        assert [room.try_enter() for _ in range(permits + 1)] == [True] * permits + [False]
        for task in waiting:
            assert task.done()
            assert task.cancelled() or isinstance(task.exception(), Overloaded | None)

    asyncio.run(run())


async def test_more_permits_let_those_in_who_wait() -> None:
    room, log = Room(1, 10), list[int]()
    entering = [room.enter(log, number) for number in range(4)]
    await turn()
    assert log == [0]
    room.gate.resize(3)
    await turn()
    assert log == [0, 1, 2]
    room.gate.resize(None)
    await turn()
    assert log == [0, 1, 2, 3]
    await asyncio.gather(*entering)


async def test_with_fewer_permits_those_inside_stay_and_the_next_ones_wait() -> None:
    room, log = Room(3, 10), list[int]()
    entering = [room.enter(log, number) for number in range(4)]
    await turn()
    room.gate.resize(1)
    for inside in (2, 1):
        room.gate.leave(room.inside.pop())
        await turn()
        assert (log, room.gate.running) == ([0, 1, 2], inside)
    room.gate.leave(room.inside.pop())
    await turn()
    assert log == [0, 1, 2, 3]
    await asyncio.gather(*entering)


async def test_permits_may_be_limited_later() -> None:
    room, log = Room(None, 10), list[int]()
    entering = [room.enter(log, number) for number in range(2)]
    await turn()
    room.gate.resize(1)
    assert room.gate.try_enter() is None
    for _ in range(2):
        room.gate.leave(room.inside.pop())
    assert room.gate.try_enter() is not None
    assert room.gate.try_enter() is None
    await asyncio.gather(*entering)
