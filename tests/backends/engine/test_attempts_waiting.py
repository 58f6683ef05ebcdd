"""Requests that wait: for an engine that is coming, and for one that is silent until they are told to go elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from backends.engine.replicas import EngineModel
from backends.errors import ModelNotReady, Unavailable, UpstreamTimeout
from backends.model import Endpoints, OpenAIRequest, OpenAIResponse, State
from tests.backends.engine.among import (
    NOBODY,
    STREAMED,
    WORDS,
    among,
    asked,
    endpoints,
    fields,
    over,
    requests,
    text,
)
from tests.engines import EchoEngine
from tests.waiting import eventually_async

# Waiting for an engine


async def is_waiting(model: EngineModel, request: OpenAIRequest) -> asyncio.Task[OpenAIResponse]:
    """A request that has found nobody to go to: it does not mind a stall, which is no engine's."""
    asking = asyncio.create_task(model.respond(request))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()
    assert request.stall is not None
    assert request.stall(UpstreamTimeout("It is silent."))
    return asking


def then(found: Endpoints, model: EngineModel, *states: State) -> None:
    """The model has served; now its endpoints are so."""
    assert model.ready()
    found.current = endpoints(*(one.address for one in found.current), states=states).current


async def test_nobody_waits_for_engines_that_have_never_served(two: list[EchoEngine]) -> None:
    found = endpoints(two[0].address, two[1].address, states=[State.STARTING, State.RESTARTING])
    async with over(found) as model:
        assert not model.ready()
        with pytest.raises(ModelNotReady, match="RESTARTING, STARTING"):
            await model.respond(asked())


@STREAMED
async def test_a_request_waits_for_an_engine_that_is_coming(stream: bool, two: list[EchoEngine]) -> None:
    found = endpoints(two[0].address, two[1].address)
    async with over(found) as model:
        then(found, model, State.STARTING, State.FAILED)
        assert model.ready()
        request = asked(stream=stream)
        asking = await is_waiting(model, request)
        found.current = endpoints(two[0].address, two[1].address, states=[State.READY, State.FAILED]).current
        response = await asking
        assert fields(response) == {b"x-tritium-endpoint": b"e0"}
        assert await text(response, stream=stream) == WORDS


async def test_a_request_waits_no_longer_when_none_is_coming_any_more(two: list[EchoEngine]) -> None:
    addresses = [engine.address for engine in two]
    found = endpoints(*addresses)
    async with over(found) as model:
        then(found, model, State.STARTING, State.FAILED)
        asking = await is_waiting(model, asked())
        found.current = endpoints(*addresses, states=[State.STOPPED, State.FAILED]).current
        with pytest.raises(ModelNotReady, match="'echo' is not ready: FAILED, STOPPED"):
            await asking
        assert not model.ready()
        with pytest.raises(ModelNotReady):
            await model.respond(asked())


async def test_what_failed_at_all_that_are_ready_waits_for_the_one_that_is_coming(two: list[EchoEngine]) -> None:
    addresses = [two[0].address, NOBODY]
    found = endpoints(*addresses, states=[State.RESTARTING, State.READY])
    async with over(found) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))

        async def has_failed() -> bool:
            return bool(request.route.failures)

        await eventually_async(has_failed, what="a failure")
        assert not asking.done()
        found.current = endpoints(*addresses).current
        assert await text(await asking, stream=True) == WORDS


async def test_leaving_while_waiting_for_an_engine_is_possible(two: list[EchoEngine]) -> None:
    found = endpoints(two[0].address, two[1].address)
    async with over(found) as model:
        then(found, model, State.STARTING, State.STARTING)
        asking = await is_waiting(model, asked())
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_where_nobody_can_be_reached_and_nobody_is_coming_it_says_why() -> None:
    found = endpoints(NOBODY, f"{NOBODY}/either")
    async with over(found) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))

        async def have_failed() -> bool:
            return len(request.route.failures) >= 2

        await eventually_async(have_failed, what="two failures")
        found.current = endpoints(NOBODY, f"{NOBODY}/either", states=[State.FAILED] * 2).current
        with pytest.raises(Unavailable, match="The engine of model 'echo' cannot be reached"):
            await asking


# Stalls


async def stall(request: OpenAIRequest, engine: EchoEngine) -> None:
    """Break the attempt off that is under way there."""
    await engine.holds(1)

    async def is_told() -> bool:
        return request.stall is not None and request.stall(UpstreamTimeout("It is silent."))

    await eventually_async(is_told, what="the stall")
    assert request.stall is not None
    assert not request.stall(UpstreamTimeout("It is told already."))


async def test_a_stall_before_the_head_is_broken_off_and_goes_elsewhere(two: list[EchoEngine]) -> None:
    two[1].configure(fault="hang-before-head")
    async with among(two) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))
        await stall(request, two[1])
        assert await text(await asking, stream=True) == WORDS
        assert request.route.failures == ["e1: It is silent."]
        await two[1].idle()


async def test_a_stall_that_may_not_be_tried_elsewhere_is_what_the_request_fails_with(two: list[EchoEngine]) -> None:
    two[1].configure(fault="hang-before-head")
    async with among(two, retries="0") as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))
        await stall(request, two[1])
        with pytest.raises(UpstreamTimeout, match="It is silent"):
            await asking
        assert requests(two[0]) == 0
        await two[1].idle()


async def test_a_whole_answer_may_be_silent_until_its_deadline(two: list[EchoEngine]) -> None:
    two[1].configure(fault="hang-before-head")
    async with among(two) as model:
        request = asked(stream=False)
        asking = asyncio.create_task(model.respond(request))
        await two[1].holds(1)
        assert request.stall is None  # it has no first token that could be late
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await two[1].idle()


@STREAMED
async def test_nothing_is_broken_off_any_more_once_the_answer_is_over(stream: bool, two: list[EchoEngine]) -> None:
    async with among(two) as model:
        request = asked(stream=stream)
        await text(await model.respond(request), stream=stream)
        assert request.stall is None or not request.stall(UpstreamTimeout("It is silent."))
