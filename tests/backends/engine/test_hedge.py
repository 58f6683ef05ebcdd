"""A second attempt for a first token that is late: begun no sooner than that, and only one of the two is heard."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from backends.engine.attempts import Leg
from backends.engine.hedge import Hedge
from backends.engine.replicas import EngineModel
from backends.errors import UpstreamError, UpstreamTimeout
from backends.model import Endpoint, Endpoints, Frame, OpenAIRequest, OpenAIResponse, State, Write
from tests.backends.engine.among import WORDS, Said, among, asked, heard, over
from tests.backends.engine.routed import replicas as routed
from tests.engines import EchoEngine
from tests.waiting import eventually_async

ENOUGH = 20
NEVER_MS = 1_000_000


class Speech:
    """A body whose first part comes when it is told to, or whose engine fails then."""

    def __init__(self, *, is_begun: bool = False, error: Exception | None = None) -> None:
        self.begun = asyncio.Event()
        self.error = error
        self.closed = 0
        self._parts = [b"first", b"second"]
        if is_begun:
            self.begun.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self.begun.wait()
        if self.error is not None:
            raise self.error
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop(0)

    async def pump(self, write: Write, frame: Frame | None = None) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed += 1


def leg(speech: Speech) -> Leg:
    (replica,) = routed(1)
    request = OpenAIRequest("/v1/x", b"{}", "m", stream=True, prompt_tokens=3)
    replica.take(request)
    return Leg(replica, request, OpenAIResponse(200, [], speech))


async def nobody() -> Leg | None:
    return None


async def knowing(seconds: float = 0.0) -> Hedge:
    """One that knows of enough first tokens, which took so long."""
    hedge = Hedge()
    hedge._seconds.extend([seconds] * ENOUGH)
    return hedge


def is_over(one: Leg, speech: Speech) -> bool:
    return speech.closed == 1 and one.replica.in_flight == one.replica.tokens_in_flight == 0


class Second:
    """Begins a second attempt, and keeps how often it was asked for one."""

    def __init__(self, made: Leg | None) -> None:
        self.made = made
        self.asked = asyncio.Event()

    async def __call__(self) -> Leg | None:
        assert not self.asked.is_set()
        self.asked.set()
        return self.made


# What is late


async def test_nothing_is_late_while_too_little_is_known() -> None:
    hedge = Hedge()
    for number in range(ENOUGH):
        assert hedge.late_seconds is None, number
        await hedge.best(leg(Speech(is_begun=True)), nobody)
    assert hedge.late_seconds is not None
    assert 0 <= hedge.late_seconds < 5


def test_late_is_what_nineteen_in_twenty_first_tokens_are_sooner_than() -> None:
    hedge = Hedge()
    seconds = [float(number) for number in range(100)]
    random.shuffle(seconds)
    hedge._seconds.extend(seconds)
    late = hedge.late_seconds
    assert late is not None
    assert sum(each < late for each in seconds) == 95


def test_old_first_tokens_are_forgotten() -> None:
    hedge = Hedge()
    hedge._seconds.extend([1000.0] * 500)
    hedge._seconds.extend([1.0] * 256)
    assert hedge.late_seconds == 1.0


# Of two


async def test_a_first_token_in_time_begins_no_second_attempt() -> None:
    hedge, speech = await knowing(1000.0), Speech()
    one, second = leg(speech), Second(None)
    best = asyncio.create_task(hedge.best(one, second))
    await asyncio.sleep(0)
    speech.begun.set()
    assert await best is one
    assert one.first == b"first"
    assert not second.asked.is_set()
    assert speech.closed == 0


async def test_nobody_is_asked_a_second_time_while_too_little_is_known() -> None:
    hedge, speech = Hedge(), Speech()
    hedge._seconds.extend([0.0] * (ENOUGH - 1))
    one, second = leg(speech), Second(None)
    best = asyncio.create_task(hedge.best(one, second))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.asked.is_set()
    speech.begun.set()
    assert await best is one


async def test_of_two_the_first_to_speak_is_heard_and_the_other_one_is_closed() -> None:
    for winner in (0, 1):
        hedge, speeches = await knowing(), [Speech(), Speech()]
        legs = [leg(speech) for speech in speeches]
        second = Second(legs[1])
        best = asyncio.create_task(hedge.best(legs[0], second))
        await second.asked.wait()
        assert not best.done()
        speeches[winner].begun.set()
        assert await best is legs[winner]
        assert legs[winner].first == b"first"
        assert speeches[winner].closed == 0
        assert legs[winner].replica.in_flight == 1
        assert is_over(legs[1 - winner], speeches[1 - winner])


async def test_where_nobody_else_is_to_be_had_the_first_is_waited_for() -> None:
    hedge, speech = await knowing(), Speech()
    one, second = leg(speech), Second(None)
    best = asyncio.create_task(hedge.best(one, second))
    await second.asked.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not best.done()
    speech.begun.set()
    assert await best is one


async def test_a_second_that_fails_leaves_the_first_to_be_waited_for() -> None:
    hedge, speech, broken = await knowing(), Speech(), Speech(is_begun=True, error=UpstreamError("It broke."))
    one, other = leg(speech), leg(broken)
    best = asyncio.create_task(hedge.best(one, Second(other)))

    async def is_closed() -> bool:
        return is_over(other, broken)

    await eventually_async(is_closed, what="the end of the second")
    assert not best.done()
    speech.begun.set()
    assert await best is one


async def test_a_first_that_fails_while_the_second_has_not_spoken_is_left_for_the_second() -> None:
    hedge, speech, other_speech = await knowing(), Speech(error=UpstreamError("It broke.")), Speech()
    one, other = leg(speech), leg(other_speech)
    second = Second(other)
    best = asyncio.create_task(hedge.best(one, second))
    await second.asked.wait()
    speech.begun.set()
    for _ in range(10):
        await asyncio.sleep(0)
    other_speech.begun.set()
    assert await best is other
    assert other.first == b"first"
    assert is_over(one, speech)


async def test_where_both_fail_reading_the_first_tells_how() -> None:
    hedge, speech = await knowing(), Speech(error=UpstreamError("The first broke."))
    broken = Speech(is_begun=True, error=UpstreamError("The second broke."))
    one, other = leg(speech), leg(broken)

    async def is_closed() -> bool:
        return is_over(other, broken)

    best = asyncio.create_task(hedge.best(one, Second(other)))
    await eventually_async(is_closed, what="the end of the second")
    speech.begun.set()
    assert await best is one
    assert one.first == b""
    with pytest.raises(UpstreamError, match="The first broke"):
        await anext(one.response.body)


async def test_a_first_that_fails_in_time_is_the_callers_affair() -> None:
    hedge, speech = await knowing(1000.0), Speech(is_begun=True, error=UpstreamError("It broke."))
    one = leg(speech)
    second = Second(None)
    assert await hedge.best(one, second) is one
    assert not second.asked.is_set()


async def test_what_is_no_failure_of_an_engine_comes_out_and_leaves_nothing_open() -> None:
    hedge, speech = await knowing(), Speech()
    one = leg(speech)

    async def second() -> Leg | None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        await hedge.best(one, second)
    assert is_over(one, speech)


async def test_leaving_closes_both() -> None:
    hedge, speeches = await knowing(), [Speech(), Speech()]
    legs = [leg(speech) for speech in speeches]
    second = Second(legs[1])
    best = asyncio.create_task(hedge.best(legs[0], second))
    await second.asked.wait()
    await asyncio.sleep(0)
    best.cancel()
    with pytest.raises(asyncio.CancelledError):
        await best
    assert all(map(is_over, legs, speeches))


# Among engines


async def whole(model: EngineModel, request: OpenAIRequest) -> tuple[Said, dict[bytes, bytes]]:
    response = await model.respond(request)
    said = await heard(response, is_pumped=True)
    return said, dict(response.headers)


def at_once(model: EngineModel) -> None:
    """Whatever is not there at once is late."""
    model.hedge._seconds.extend([0.0] * ENOUGH)


@pytest.mark.parametrize("late", ["ttft", "hang-before-first-token"])
async def test_a_late_first_token_has_another_engine_asked_and_the_slow_one_let_go(
    late: str, two: list[EchoEngine]
) -> None:
    async with among(two, hedge="true") as model:
        for _ in range(ENOUGH):
            request = asked()
            await whole(model, request)
            assert request.route.hedges == 0
        if late == "ttft":
            two[1].configure(ttft_ms=NEVER_MS)
        else:
            two[1].configure(fault=late)
        request = asked()
        said, headers = await whole(model, request)
        assert said.text == WORDS
        assert (said.roles, said.is_done, said.finish_reasons) == (1, True, ["stop"])
        assert (request.route.hedges, request.route.retries, request.route.endpoint) == (1, 0, "e0")
        assert (headers[b"x-tritium-hedges"], headers[b"x-tritium-endpoint"]) == (b"1", b"e0")
        await two[1].idle()


async def test_a_second_attempt_that_is_the_slower_one_is_let_go(two: list[EchoEngine]) -> None:
    two[0].configure(ttft_ms=NEVER_MS)
    two[1].configure(ttft_ms=100)
    async with among(two, hedge="true") as model:
        at_once(model)
        request = asked()
        said, headers = await whole(model, request)
        assert said.text == WORDS
        assert request.route.hedges == 1
        assert headers[b"x-tritium-endpoint"] == b"e1"
        await two[0].idle()


@pytest.mark.parametrize("fault", ["500", "422", "refuse", "cut"])
async def test_a_second_attempt_that_fails_is_nobodys_loss(fault: str, two: list[EchoEngine]) -> None:
    two[0].configure(fault=fault, after=0)
    two[1].configure(ttft_ms=100)
    async with among(two, hedge="true") as model:
        at_once(model)
        request = asked()
        said, headers = await whole(model, request)
        assert said.text == WORDS
        assert headers[b"x-tritium-endpoint"] == b"e1"
        assert request.route.hedges == 1


async def test_a_first_attempt_that_fails_late_is_made_good(two: list[EchoEngine]) -> None:
    two[1].configure(fault="hang-before-first-token")
    two[0].configure(ttft_ms=NEVER_MS)
    async with among(two, hedge="true") as model:
        at_once(model)
        request = asked()
        asking = asyncio.create_task(whole(model, request))
        await two[0].holds(1)
        assert request.stall is not None
        two[0].configure(ttft_ms=0)
        assert request.stall(UpstreamTimeout("Both are silent."))
        said, _ = await asking
        assert said.text == WORDS
        assert "Both are silent." in request.route.failures[0]
        await two[1].idle()


@pytest.mark.parametrize("parameters", [{}, {"hedge": "false"}, {"hedge": "true", "retry_budget": "0"}])
async def test_no_second_attempt_where_none_is_allowed(parameters: dict[str, str], two: list[EchoEngine]) -> None:
    two[1].configure(ttft_ms=30)
    async with among(two, **parameters) as model:
        at_once(model)
        request = asked()
        said, headers = await whole(model, request)
        assert said.text == WORDS
        assert request.route.hedges == 0
        assert b"x-tritium-hedges" not in headers
        assert two[0].stats()["requests"] == 0


async def test_no_second_attempt_where_nobody_else_is_ready(two: list[EchoEngine]) -> None:
    two[0].configure(ttft_ms=30)
    found = Endpoints((Endpoint("e0", two[0].address, State.READY), Endpoint("e1", two[1].address, State.STARTING)))
    async with over(found, hedge="true") as model:
        at_once(model)
        request = asked()
        said, _ = await whole(model, request)
        assert said.text == WORDS
        assert request.route.hedges == 0
        assert two[1].stats()["requests"] == 0


async def test_a_client_that_leaves_while_two_are_asked_frees_both(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(ttft_ms=NEVER_MS)
    async with among(two, hedge="true") as model:
        at_once(model)
        asking = asyncio.create_task(whole(model, asked()))
        for engine in two:
            await engine.holds(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        for engine in two:
            await engine.idle()
