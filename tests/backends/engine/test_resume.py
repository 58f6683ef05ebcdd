"""Streams that outlive their engines: no text lost or said twice, one answer, an honest usage; or the error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from backends.errors import UpstreamError, UpstreamTimeout
from backends.model import OpenAIRequest
from tests.backends.engine.among import CHAT, COMPLETIONS, WORDS, Said, among, asked, engines, heard
from tests.engines import EchoEngine
from tests.waiting import eventually_async

WAYS = pytest.mark.parametrize("is_pumped", [True, False])
COUNT = len(WORDS.split())


@pytest.fixture(scope="module")
def started() -> Iterator[list[EchoEngine]]:
    with engines(2) as both:
        yield both


@pytest.fixture
def replicas(started: list[EchoEngine]) -> Iterator[list[EchoEngine]]:
    yield started
    for engine in started:
        engine.configure(fault="none", after=-1, times=0, itl_ms=0, ttft_ms=0)
        engine.reset()


def break_first(replicas: list[EchoEngine], fault: str, after: int = 5, **options: Any) -> None:
    """The engine whose turn is the first breaks its streams."""
    replicas[1].configure(fault=fault, after=after, **options)


async def said(replicas: list[EchoEngine], request: OpenAIRequest, *, is_pumped: bool = True, **options: str) -> Said:
    async with among(replicas, **options) as model:
        response = await model.respond(request)
        assert response.status == 200
        return await heard(response, is_pumped=is_pumped)


@WAYS
@pytest.mark.parametrize("fault", ["cut", "eof", "error-event"])
@pytest.mark.parametrize("path", [CHAT])
async def test_a_broken_stream_goes_on_elsewhere_as_one_answer(
    fault: str, path: str, is_pumped: bool, replicas: list[EchoEngine]
) -> None:
    undisturbed = await said(replicas, asked(path), is_pumped=is_pumped)
    assert undisturbed.text == WORDS
    break_first(replicas, fault)
    request = asked(path)
    broken = await said(replicas, request, is_pumped=is_pumped)
    assert request.route.resumes == 1
    assert request.route.failures
    assert request.route.failures[0].startswith("e1: ")
    assert broken.text == WORDS
    assert broken.is_done
    assert broken.finish_reasons == undisturbed.finish_reasons
    assert broken.usage == undisturbed.usage
    assert broken.roles == undisturbed.roles == 1
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in broken.chunks}) == 1
    assert broken.trailers == {b"x-tritium-resumes": b"1"}


@pytest.mark.parametrize("lost_engines", ["30", "2"])
async def test_a_stream_outlives_many_engines(lost_engines: str, replicas: list[EchoEngine]) -> None:
    for engine in replicas:
        engine.configure(fault="cut", after=2)
    request = asked()
    broken = await said(replicas, request, lost_engines=lost_engines)  # those that gave some text do not count
    assert broken.text == WORDS
    assert request.route.resumes >= COUNT // 2 - 1
    assert broken.usage[1] == COUNT


@pytest.mark.parametrize(("limit", "reason"), [(COUNT - 3, "length"), (COUNT, "stop"), (5, "length")])
async def test_the_tokens_left_are_what_the_limit_leaves(limit: int, reason: str, replicas: list[EchoEngine]) -> None:
    undisturbed = await said(replicas, asked(max_tokens=limit))
    break_first(replicas, "cut", after=5)
    broken = await said(replicas, asked(max_tokens=limit))
    assert broken.text == undisturbed.text == " ".join(WORDS.split()[:limit])
    assert broken.usage == undisturbed.usage
    assert broken.finish_reasons == undisturbed.finish_reasons == [reason]


async def test_the_limit_that_an_engine_has_by_itself_holds_across_the_seam(replicas: list[EchoEngine]) -> None:
    undisturbed = await said(replicas, asked(COMPLETIONS))
    break_first(replicas, "cut", after=5)
    broken = await said(replicas, asked(COMPLETIONS))  # it echoes what it goes on with, so that texts differ
    assert broken.usage[1] == undisturbed.usage[1] == 16
    assert broken.finish_reasons == undisturbed.finish_reasons == ["length"]


async def test_a_stop_string_across_the_seam_ends_the_answer(replicas: list[EchoEngine]) -> None:
    for stop in ("word4 word5", "word5 word6", "d7 w"):
        undisturbed = await said(replicas, asked(stop=[stop]))
        break_first(replicas, "cut", after=5)
        broken = await said(replicas, asked(stop=[stop]))
        assert broken.text == undisturbed.text
        assert broken.finish_reasons == undisturbed.finish_reasons == ["stop"]


async def test_what_it_was_asked_with_is_asked_again(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=5)
    request = asked(temperature=0.5, seed=7, top_p=0.9, user="u", max_completion_tokens=20, min_tokens=6)
    await said(replicas, request)
    body = json.loads(replicas[0].stats()["last"]["body"])
    assert (body["temperature"], body["seed"], body["top_p"], body["user"]) == (0.5, 7, 0.9, "u")
    assert (body["max_completion_tokens"], body["min_tokens"]) == (15, 1)
    assert body["messages"][-1] == {"role": "assistant", "content": " ".join(WORDS.split()[:5])}


UNSAFE: list[dict[str, Any]] = [
    {"n": 2},
    {"logprobs": True},
    {"response_format": {"type": "json_object"}},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
]


@pytest.mark.parametrize("fields", UNSAFE)
async def test_what_is_not_safe_to_go_on_with_breaks(fields: dict[str, Any], replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=2)
    request = asked(**fields)
    with pytest.raises(UpstreamError):
        await said(replicas, request)
    assert request.route.resumes == 0


async def test_a_tool_call_half_way_is_not_gone_on_with(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=2)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = asked(messages=[{"role": "user", "content": 'call tool f {"a": "b c d e"}'}], tools=[tool])
    with pytest.raises(UpstreamError):
        await said(replicas, request)


async def test_a_model_may_not_be_resumed(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=5)
    with pytest.raises(UpstreamError):
        await said(replicas, asked(), resume="false")


@WAYS
@pytest.mark.parametrize("fields", [{}, *UNSAFE])
@pytest.mark.parametrize("fault", ["cut", "eof", "error-event"])
async def test_before_the_first_token_any_stream_is_begun_anew(
    fault: str, fields: dict[str, Any], is_pumped: bool, replicas: list[EchoEngine]
) -> None:
    undisturbed = await said(replicas, asked(**fields))
    break_first(replicas, fault, after=0)
    request = asked(**fields)
    broken = await said(replicas, request, is_pumped=is_pumped)
    assert broken.text == undisturbed.text
    assert broken.is_done
    assert broken.finish_reasons == undisturbed.finish_reasons


async def test_a_stall_is_broken_off_and_the_stream_goes_on(replicas: list[EchoEngine]) -> None:
    for fault, after in (("hang-before-head", 0), ("hang-before-first-token", 0), ("hang", 5)):
        break_first(replicas, fault, after=after)
        request = asked()
        async with among(replicas) as model:
            asking = asyncio.create_task(whole(model, request))

            async def is_told(asked: OpenAIRequest = request) -> bool:
                return asked.stall is not None and asked.stall(UpstreamTimeout("It is silent."))

            await replicas[1].holds(1)
            await eventually_async(is_told, what="the stall")
            assert (await asking).text == WORDS
        assert "It is silent." in request.route.failures[0]


async def whole(model: Any, request: OpenAIRequest) -> Said:
    return await heard(await model.respond(request), is_pumped=True)


async def test_a_client_that_leaves_during_a_resume_frees_every_engine(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=3)
    replicas[0].configure(itl_ms=50)
    async with among(replicas) as model:
        request = asked()
        asking = asyncio.create_task(whole(model, request))

        async def is_resumed() -> bool:
            return request.route.resumes == 1

        await eventually_async(is_resumed, what="the resume")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        for engine in replicas:
            await engine.idle()
        assert all(replica.in_flight == replica.tokens_in_flight == 0 for replica in model.replicas.ready())


async def test_a_completion_goes_on_from_its_prompt_and_its_text(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=5)
    request = asked(COMPLETIONS, max_tokens=COUNT)
    broken = await said(replicas, request)
    assert request.route.resumes == 1
    assert broken.usage[1] == COUNT
    assert json.loads(replicas[0].stats()["last"]["body"])["prompt"] == WORDS + " ".join(WORDS.split()[:5])


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize(("limit", "after"), [(COUNT - 3, COUNT - 3), (COUNT + 9, COUNT)])
async def test_a_stream_that_breaks_behind_its_text_still_ends_well(
    limit: int, after: int, usage: bool, replicas: list[EchoEngine]
) -> None:
    fields: dict[str, Any] = {"max_tokens": limit, **({} if usage else {"stream_options": None})}
    undisturbed = await said(replicas, asked(**fields))
    break_first(replicas, "cut", after=after)
    request = asked(**fields)
    broken = await said(replicas, request)
    assert request.route.resumes == 1
    assert broken.text == undisturbed.text
    assert broken.finish_reasons == undisturbed.finish_reasons
    assert broken.is_done
    if usage:
        assert broken.usage == undisturbed.usage
    # One token where the usage alone is wanted.
    assert json.loads(replicas[0].stats()["last"]["body"])["max_tokens"] == max(1, limit - after)


async def test_without_a_count_of_the_text_its_events_are_counted(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=5)
    replicas[0].configure(fault="500", times=1)  # what the text is counted by
    request = asked(max_tokens=12)
    broken = await said(replicas, request)
    assert request.route.resumes == 1
    assert broken.text == " ".join(WORDS.split()[:12])
    assert broken.usage[1] == 12
    assert json.loads(replicas[0].stats()["last"]["body"])["max_tokens"] == 7


async def test_a_stream_that_no_other_engine_takes_breaks_by_what_it_broke_by(replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=5)
    replicas[0].configure(fault="422")
    request = asked()
    with pytest.raises(UpstreamError, match="closed the connection before its answer was complete"):
        await said(replicas, request)
    assert request.route.failures[-1].startswith("not resumed: no other engine took it: It answered 422")
