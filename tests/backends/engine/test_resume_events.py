"""Events as any engine may send them: cut anywhere, too large, of another family, or of no use to go on from."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.errors import UpstreamError
from backends.kinds import find_kind
from backends.model import Endpoint, Endpoints, OpenAIRequest, OpenAIResponse, State
from tests.backends.engine.among import (
    WORDS,
    Said,
    among,
    asked,
    endpoints,
    heard,
    over,
)
from tests.backends.engine.scripted import OK, scripted
from tests.backends.running import NO_MODELS
from tests.engines import EchoEngine

WAYS = pytest.mark.parametrize("is_pumped", [True, False])
STREAM = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


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


async def whole(model: EngineModel, request: OpenAIRequest) -> Said:
    return await heard(await model.respond(request), is_pumped=True)


async def test_a_request_that_is_no_json_is_not_gone_on_with(two: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(two[0].address, server.address)) as model:
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
async def test_a_chat_goes_on_only_where_the_kind_of_engine_is_known(engine: str, two: list[EchoEngine]) -> None:
    two[1].configure(fault="cut", after=5)
    parameters = {"endpoints": "http://a,http://b", "routing_policy": "round_robin"}
    config = ModelConfig("echo", "openai", parameters={**parameters, **({"engine": engine} if engine else {})})
    model = find_kind("openai").connect(config, endpoints(*[one.address for one in two]), NO_MODELS)
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


@WAYS
@pytest.mark.parametrize("before", [b"", sse(piece("one"))])
async def test_an_error_that_another_engine_would_repeat_is_not_tried_there(
    is_pumped: bool, before: bytes, two: list[EchoEngine]
) -> None:
    async with scripted() as server, over(endpoints(two[0].address, server.address)) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))
        conversation = await server.next()
        await conversation.request()
        error = sse(b'data: {"error":{"message":"Too long.","code":400}}\n\n')
        await conversation.say(STREAM + before + error + sse(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        response = await asking
        parts: list[bytes] = []
        with pytest.raises(UpstreamError, match="Too long"):
            await read(response, parts, is_pumped=is_pumped)
        await response.body.aclose()
        assert two[0].stats()["requests"] == 0
        if is_pumped:  # the engine's own words are what the client gets
            assert b"Too long." in b"".join(parts)


@WAYS
async def test_half_an_event_at_the_end_never_reaches_the_client(is_pumped: bool, two: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(two[0].address, server.address)) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))
        conversation = await server.next()
        await conversation.request()
        await conversation.say(STREAM, sse(piece("word0")), sse(piece(" word1")), sse(piece(" word2")[:-9]))
        conversation.reset()
        broken = await heard(await asking, is_pumped=is_pumped)
        assert broken.text == WORDS
        assert {chunk["id"] for chunk in broken.chunks} == {"c1"}


async def test_an_event_over_the_limit_is_the_engines_fault(two: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(two[0].address, server.address)) as model:
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
    path: str, is_pumped: bool, two: list[EchoEngine]
) -> None:
    turns = [{"role": "user", "content": WORDS}]
    own: dict[str, Any] = {"input": WORDS} if path == "/v1/responses" else {"messages": turns, "max_tokens": 100}
    body = json.dumps({"model": "echo", "stream": True, **own}).encode()
    for after in (0, 3):
        two[1].configure(fault="cut", after=after)
        request = OpenAIRequest(path, body, "echo", stream=True)
        async with among(two) as model:
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
