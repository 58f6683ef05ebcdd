"""What requests met with at an endpoint decides what it gets next: nothing for a while, one try, or its share."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

import pytest

from backends.engine.policies import policy
from backends.engine.replica import Replica, Replicas
from backends.engine.routing import Routing
from backends.errors import ModelNotReady
from backends.model import Endpoint, Endpoints, Load, OpenAIRequest, State
from tests.backends.engine.scripted import EMPTY, OK, asked, iterated, scripted
from tests.processes import holds

BANS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
"""Seconds of each ban in a row."""


def request(prompt_tokens: int = 5, output_tokens: int = 2) -> OpenAIRequest:
    return OpenAIRequest("/v1/x", b"{}", "m", stream=False, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def endpoints(*states: State) -> Endpoints:
    return Endpoints(tuple(Endpoint(f"e{n}", f"unix:/{n}", state) for n, state in enumerate(states)))


def among(found: Endpoints) -> Replicas:
    return Replicas("m", found, policy(Routing(routing_policy="round_robin")), ())


def ready(count: int) -> tuple[Endpoints, Replicas, list[Replica]]:
    found = endpoints(*[State.READY] * count)
    replicas = among(found)
    return found, replicas, list(replicas.ready())


@dataclass
class Ban:
    """When a ban was begun, at the earliest and at the latest."""

    earliest: float
    latest: float
    is_new: bool


def fail(replica: Replica, *, at_once: bool = True) -> Ban:
    before = monotonic()
    is_new = replica.failed(at_once=at_once)
    return Ban(before, monotonic(), is_new)


def is_banned(replica: Replica) -> bool:
    """Whether a ban stands, over or not."""
    return not replica.admits(0.0)


def over(ban: Ban) -> float:
    """A time when the longest of all bans is over."""
    return ban.latest + BANS[-1]


def picks(replicas: Replicas, count: int = 6, avoided: tuple[Replica, ...] = ()) -> set[str]:
    """Who gets so many requests in a row."""
    chosen = [replicas.choose(request(), avoided) for _ in range(count)]
    return {one[0].endpoint.id for one in chosen if one is not None}


def test_one_that_cannot_be_reached_is_banned_at_once_for_half_a_second() -> None:
    _, _, (replica,) = ready(1)
    assert replica.admits(monotonic())
    ban = fail(replica)
    assert ban.is_new
    assert is_banned(replica)
    assert not replica.admits(ban.earliest + 0.499)
    assert replica.admits(ban.latest + 0.5)


def test_other_failures_ban_at_the_third_in_a_row() -> None:
    _, _, (replica,) = ready(1)
    for _ in range(3):  # what is answered in between begins the count anew
        for _ in range(2):
            assert not fail(replica, at_once=False).is_new
            assert not is_banned(replica)
        replica.succeeded()
    told = [fail(replica, at_once=False).is_new for _ in range(3)]
    assert told == [False, False, True]
    assert is_banned(replica)


def test_each_failed_try_doubles_the_ban_up_to_half_a_minute_and_is_no_new_one() -> None:
    _, _, (replica,) = ready(1)
    for number, seconds in enumerate(BANS):
        ban = fail(replica, at_once=number % 2 == 0)
        assert ban.is_new == (number == 0)
        assert not replica.admits(ban.earliest + seconds - 0.001)
        assert replica.admits(ban.latest + seconds)


def test_a_banned_one_is_tried_by_one_request_at_a_time() -> None:
    _, _, (replica,) = ready(1)
    later = over(fail(replica))
    for _ in range(2):
        first = request()
        assert replica.admits(later)
        replica.take(first)
        assert not replica.admits(later)
        replica.release(first)  # it was cancelled: nothing is known yet
    assert replica.admits(later)


def test_a_request_from_before_the_ban_that_ends_lets_no_second_one_try() -> None:
    _, _, (replica,) = ready(1)
    earlier, first = request(), request()
    replica.take(earlier)
    later = over(fail(replica))
    assert replica.admits(later)
    replica.take(first)
    replica.release(earlier)
    assert not replica.admits(later)
    replica.release(first)
    assert replica.admits(later)


def test_a_try_that_is_answered_ends_the_ban_and_its_doubling() -> None:
    _, _, (replica,) = ready(1)
    for _ in range(3):
        fail(replica)
    first = request()
    replica.take(first)
    replica.succeeded()
    assert not is_banned(replica)
    assert replica.admits(0.0)
    replica.release(first)
    ban = fail(replica)
    assert ban.is_new
    assert replica.admits(ban.latest + 0.5)


def test_a_try_that_speaks_ends_the_ban_and_one_more_failure_brings_it_back_twice_as_long() -> None:
    _, _, (replica,) = ready(1)
    fail(replica)
    replica.take(request())
    assert not replica.admits(monotonic() + BANS[0])
    replica.spoke()
    assert replica.admits(monotonic())
    ban = fail(replica, at_once=False)
    assert ban.is_new
    assert not replica.admits(ban.earliest + BANS[1] - 0.001)


def test_one_that_is_gone_tells_nothing_of_the_others_any_more() -> None:
    found, replicas, (first, second) = ready(2)
    fail(first)
    found.current = found.current[1:]
    assert replicas.ready() == [second]
    assert fail(first).is_new
    assert is_banned(first)
    assert not replicas._banned


def test_requests_count_with_their_tokens_until_they_are_released() -> None:
    _, _, (replica,) = ready(1)
    small, large = request(1, 2), request(100, 50)
    replica.take(small)
    replica.take(large)
    assert (replica.in_flight, replica.tokens_in_flight) == (2, 153)
    replica.release(small)
    assert (replica.in_flight, replica.tokens_in_flight) == (1, 150)
    replica.release(large)
    assert (replica.in_flight, replica.tokens_in_flight) == (0, 0)


def test_its_load_is_what_its_engine_said_last() -> None:
    found, _, (one, other) = ready(2)
    assert one.load is None
    found.loads = {"e0": Load(waiting=3)}
    assert one.load == Load(waiting=3)
    assert other.load is None


def test_a_process_that_was_started_anew_has_not_failed_yet() -> None:
    found, replicas, (replica,) = ready(1)
    fail(replica)
    (endpoint,) = found.current
    found.current = (Endpoint(endpoint.id, endpoint.address, State.READY, restarts=1),)
    assert replicas.ready() == [replica]
    assert not is_banned(replica)
    assert replica.endpoint.restarts == 1


def test_an_endpoint_that_is_ready_again_has_not_failed_yet() -> None:
    found, replicas, (replica,) = ready(1)
    before = found.current
    fail(replica)
    found.current = endpoints(State.UNHEALTHY).current
    assert replicas.ready() == []
    assert is_banned(replica)
    found.current = before
    assert replicas.ready() == [replica]
    assert not is_banned(replica)


def test_a_snapshot_that_says_the_same_leaves_a_ban_as_it_is() -> None:
    found, replicas, (replica, _) = ready(2)
    ban = fail(replica)
    found.current = endpoints(State.READY, State.STARTING).current
    assert replicas.ready() == [replica]
    assert is_banned(replica)
    assert not replica.admits(ban.earliest)


def test_requests_pass_a_banned_one_over_while_there_is_another() -> None:
    _, replicas, (first, second, third) = ready(3)
    assert picks(replicas) == {"e0", "e1", "e2"}
    fail(first)
    assert picks(replicas) == {"e1", "e2"}
    assert picks(replicas, avoided=(second,)) == {"e2"}
    first.succeeded()
    assert picks(replicas) == {"e0", "e1", "e2"}
    assert third.endpoint.id == "e2"


def test_where_all_are_banned_one_is_asked_all_the_same_but_none_that_is_avoided() -> None:
    _, replicas, (first, second) = ready(2)
    fail(first)
    fail(second)
    assert picks(replicas) == {"e0", "e1"}
    assert picks(replicas, avoided=(first,)) == {"e1"}
    assert replicas.choose(request(), (first, second)) is None


def test_the_last_one_that_is_not_banned_is_preferred_unless_it_is_avoided() -> None:
    _, replicas, (first, second) = ready(2)
    fail(first)
    assert picks(replicas, avoided=(second,)) == {"e0"}


@pytest.mark.parametrize(
    ("state", "is_coming"),
    [
        (State.STARTING, True),
        (State.RESTARTING, True),
        (State.UNHEALTHY, True),
        (State.READY, False),
        (State.FAILED, False),
        (State.DRAINING, False),
        (State.STOPPED, False),
    ],
)
def test_what_may_become_ready_is_coming(state: State, is_coming: bool) -> None:
    found = endpoints(State.FAILED, state)
    replicas = among(found)
    replicas.ready()
    assert not replicas.is_coming()  # it has never served
    found.current = endpoints(State.FAILED, State.READY).current
    replicas.ready()
    found.current = endpoints(State.FAILED, state).current
    assert replicas.is_coming() == is_coming
    assert [replica.endpoint.id for replica in replicas.ready()] == (["e1"] if state is State.READY else [])
    assert replicas.count == 2


def test_turns_are_taken_among_the_ready_ones_and_without_any_it_says_so() -> None:
    found = endpoints(State.READY, State.DRAINING, State.READY)
    replicas = among(found)
    turns = [replicas.next().endpoint.id for _ in range(6)]
    assert sorted(turns[:2]) == ["e0", "e2"]
    assert turns == turns[:2] * 3
    found.current = endpoints(State.FAILED).current
    with pytest.raises(ModelNotReady, match="'m' is not ready: FAILED"):
        replicas.next()


async def test_the_connections_to_an_endpoint_that_is_gone_close_with_their_answers() -> None:
    async with scripted() as server:
        found = Endpoints((Endpoint("e0", server.address, State.READY),))
        replicas = among(found)
        (replica,) = replicas.ready()
        task, idle = await asked(replica.pool, server)
        second, streaming = await asked(replica.pool, server)
        await idle.say(EMPTY)
        await task
        await streaming.say(OK + b"content-length: 4\r\n\r\non")
        answer = await second
        assert replicas.connections() == (1, 1)
        assert replicas.work() == {server.address: 1}
        found.current = endpoints(State.READY).current
        assert replicas.ready() != [replica]
        await idle.gone()
        await streaming.say(b"ly")
        assert await iterated(answer) == b"only"
        assert replica.pool.idle_count == 0
        await streaming.gone()
        await holds(lambda: replica.pool.open_count == 0)
        assert replicas.connections() == (0, 0)
