"""Streams that outlive their engines: no text lost or said twice, one answer, an honest usage; or the error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.errors import UpstreamError, UpstreamTimeout
from backends.kinds import find_kind
from backends.model import Endpoint, Endpoints, OpenAIRequest, OpenAIResponse, State
from tests.backends.engine.among import CHAT, COMPLETIONS, WORDS, Said, among, asked, engines, heard, over
from tests.backends.engine.scripted import OK, scripted
from tests.backends.running import NO_MODELS
from tests.engines import EchoEngine
from tests.waiting import eventually_async

WAYS = pytest.mark.parametrize("is_pumped", [True, False])
COUNT = len(WORDS.split())
STREAM = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


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


def endpoints(*addresses: str) -> Endpoints:
    """The second is the first to be asked."""
    return Endpoints(tuple(Endpoint(f"e{n}", address, State.READY) for n, address in enumerate(addresses)))


def piece(text: str) -> bytes:
    """A chunk of a chat, as a scripted engine sends it."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "echo"}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()


def sse(data: bytes) -> bytes:
    """An event in one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def read(response: OpenAIResponse, parts: list[bytes], *, is_pumped: bool) -> None:
    """Add what comes of a body, by either way, until it raises."""
    if is_pumped:
        await response.body.pump(parts.append)
    else:
        async for part in response.body:
            parts.append(part)  # noqa: PERF401  # what came before the end counts


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


async def test_a_stream_outlives_many_engines(replicas: list[EchoEngine]) -> None:
    for engine in replicas:
        engine.configure(fault="cut", after=2)
    request = asked()
    broken = await said(replicas, request)
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


async def test_a_request_that_is_no_json_is_not_gone_on_with(replicas: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(replicas[0].address, server.address)) as model:
        request = asked()
        request.body = b"{"
        asking = asyncio.create_task(whole(model, request))
        conversation = await server.next()
        await conversation.request()
        await conversation.say(STREAM, sse(piece("one")))
        conversation.reset()
        with pytest.raises(UpstreamError):
            await asking
        assert request.route.failures[-1] == "not resumed: it cannot be read"


@pytest.mark.parametrize("engine", ["", "vllm"])
async def test_a_chat_goes_on_only_where_the_kind_of_engine_is_known(engine: str, replicas: list[EchoEngine]) -> None:
    break_first(replicas, "cut", after=5)
    parameters = {"endpoints": "http://a,http://b", "routing_policy": "round_robin"}
    config = ModelConfig("echo", "openai", parameters={**parameters, **({"engine": engine} if engine else {})})
    model = find_kind("openai").connect(config, endpoints(*[one.address for one in replicas]), NO_MODELS)
    request = asked()
    try:
        if engine:
            assert (await whole(model, request)).text == WORDS
        else:
            with pytest.raises(UpstreamError):
                await whole(model, request)
            assert request.route.failures[-1] == "not resumed: the engine has no way"
    finally:
        model.close()


@pytest.mark.parametrize("is_pumped", [True, False])
async def test_an_error_that_another_engine_would_repeat_is_not_tried_there(
    is_pumped: bool, replicas: list[EchoEngine]
) -> None:
    async with scripted() as server, over(endpoints(replicas[0].address, server.address)) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))
        conversation = await server.next()
        await conversation.request()
        await conversation.say(STREAM, sse(b'data: {"error":{"message":"Too long.","code":400}}\n\n'))
        response = await asking
        parts: list[bytes] = []
        with pytest.raises(UpstreamError, match="Too long"):
            await read(response, parts, is_pumped=is_pumped)
        await response.body.aclose()
        assert replicas[0].stats()["requests"] == 0
        if is_pumped:  # the engine's own words are what the client gets
            assert b"Too long." in b"".join(parts)


@WAYS
async def test_half_an_event_at_the_end_never_reaches_the_client(is_pumped: bool, replicas: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(replicas[0].address, server.address)) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))
        conversation = await server.next()
        await conversation.request()
        await conversation.say(STREAM, sse(piece("word0")), sse(piece(" word1")), sse(piece(" word2")[:-9]))
        conversation.reset()
        broken = await heard(await asking, is_pumped=is_pumped)
        assert broken.text == WORDS
        assert {chunk["id"] for chunk in broken.chunks} == {"c1"}


async def test_an_event_over_the_limit_is_the_engines_fault(replicas: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(replicas[0].address, server.address)) as model:
        request = asked()
        asking = asyncio.create_task(whole(model, request))
        conversation = await server.next()
        await conversation.request()
        await conversation.say(STREAM + b"%x\r\ndata: " % (1 << 30))
        pouring = asyncio.create_task(conversation.pour(17 << 20, b"x" * (1 << 20)))
        assert (await asking).text == WORDS
        assert "an event of more than 16777216 bytes" in request.route.failures[0]
        with pytest.raises(ConnectionError):
            await pouring


async def test_behind_a_stop_string_across_the_seam_a_break_brings_no_more_text() -> None:
    async with scripted() as first, scripted() as second, over(endpoints(second.address, first.address)) as model:
        request = asked(stop=["STOP"])
        asking = asyncio.create_task(whole(model, request))
        conversation = await first.next()
        await conversation.request()
        await conversation.say(STREAM, sse(piece("one ST")))
        conversation.reset()
        for server, text in ((second, "OP more"), (first, " and more")):
            conversation = await server.next()
            await conversation.request()
            await conversation.say(OK + b'content-type: application/json\r\ncontent-length: 11\r\n\r\n{"count":1}')
            await conversation.request()
            end = b"data: [DONE]\n\n" if server is first else b""
            await conversation.say(STREAM, sse(piece(text)), sse(end) + b"0\r\n\r\n" if end else b"")
            if not end:
                conversation.reset()
        broken = await asking
        assert broken.text == "one ST"
        assert broken.finish_reasons == ["stop"]
        assert broken.is_done


@WAYS
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_a_stream_of_another_family_begins_anew_but_does_not_go_on(
    path: str, is_pumped: bool, replicas: list[EchoEngine]
) -> None:
    turns = [{"role": "user", "content": WORDS}]
    own: dict[str, Any] = {"input": WORDS} if path == "/v1/responses" else {"messages": turns, "max_tokens": 100}
    body = json.dumps({"model": "echo", "stream": True, **own}).encode()
    for after in (0, 3):
        break_first(replicas, "cut", after=after)
        request = OpenAIRequest(path, body, "echo", stream=True)
        async with among(replicas) as model:
            response = await model.respond(request)
            parts: list[bytes] = []
            try:
                if after:
                    with pytest.raises(UpstreamError):
                        await read(response, parts, is_pumped=is_pumped)
                    assert request.route.resumes == 0
                else:
                    await read(response, parts, is_pumped=is_pumped)
                    assert b"word23" in b"".join(parts)
            finally:
                await response.body.aclose()


@WAYS
async def test_events_are_whole_however_they_are_cut_and_whichever_line_ends_they_have(is_pumped: bool) -> None:
    one, two = piece("one").rstrip(b"\n"), piece(" two").rstrip(b"\n")
    whole = b"".join(
        [b": hi\r\n\r\n", one, b"\n\n", two, b"\r\n\r\n", one, b"\n\r\n", two, b"\r\n\n", b"data: [DONE]\n\n"]
    )
    nobody = Endpoint("e0", "unix:/none", State.FAILED)
    async with scripted() as server:
        found = Endpoints((nobody, Endpoint("e1", server.address, State.READY)))
        for size in (1, 2, 3, 50, len(whole)):
            async with over(found) as model:
                asking = asyncio.create_task(model.respond(asked()))
                conversation = await server.next()
                await conversation.request()
                cut = [sse(whole[start : start + size]) for start in range(0, len(whole), size)]
                await conversation.say(STREAM)
                response = await asking
                parts: list[bytes] = []
                reading = asyncio.create_task(read(response, parts, is_pumped=is_pumped))
                await conversation.say(*cut, b"0\r\n\r\n")
                await reading
                await response.body.aclose()
                assert b"".join(parts) == whole
                if size == 1:
                    assert parts[:2] == [b": hi\r\n\r\n", one + b"\n\n"]  # each as soon as it was whole
