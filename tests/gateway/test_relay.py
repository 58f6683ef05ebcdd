"""The way of a stream's bytes through the gateway: unchanged, at once, with the head that a stream needs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest

from tests.engines import EchoEngine
from tests.faults.looking import at_rest, count, engine_of
from tests.faults.talking import CHAT, COMPLETIONS, FAMILIES, MESSAGES, RESPONSES, ask, asking, data_of, question
from tests.servers import Tritium

WORDS = "die Größe of 東京 is \U0001f5fc and that is all"
VOLATILE = re.compile(rb'"(id|created|created_at|item_id|completed_at)":("[^"]*"|[0-9.]+)')


@pytest.fixture
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        echo.reset()
        yield echo


def stable(body: bytes) -> bytes:
    """The bytes without what differs from answer to answer."""
    return VOLATILE.sub(rb'"\1":0', body)


async def direct(engine: EchoEngine, body: dict[str, Any], path: str) -> bytes:
    """What the engine itself says."""
    async with engine.client() as client:
        return (await client.post(path, json=body)).content


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["none", "split", "crlf", "keepalive-comments"])
@pytest.mark.parametrize("path", FAMILIES)
async def test_bytes_pass_unchanged(server: Tritium, engine: EchoEngine, path: str, fault: str, stream: bool) -> None:
    asked = question(path, WORDS, stream=stream, echo={"fault": fault})
    if fault == "keepalive-comments" and stream and path in (CHAT, COMPLETIONS):
        asked["stream_options"] = {"include_usage": True}  # else the comment before the usage that goes would stay
    _, body = await ask(server.url, asked, path)
    assert stable(body) == stable(await direct(engine, asked, path))
    assert stream or json.loads(body)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"stream_options": {"include_usage": True}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"n": 2, "stream_options": {"include_usage": True}, "stop": ["that"]},
    ],
    ids=["n", "usage", "continuous", "all"],
)
async def test_choices_and_usage_that_were_asked_for_pass_unchanged(
    server: Tritium, engine: EchoEngine, path: str, fields: dict[str, Any]
) -> None:
    asked = question(path, WORDS, stream=True, **fields)
    _, body = await ask(server.url, asked, path)
    assert stable(body) == stable(await direct(engine, asked, path))


async def test_tool_calls_and_logprobs_pass_unchanged(server: Tritium, engine: EchoEngine) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    for fields in (
        {"words": 'call tool look {"where": "up"}', "tools": [tool]},
        {"words": WORDS, "logprobs": True, "top_logprobs": 2},
    ):
        asked = question(CHAT, stream=True, **fields)
        _, body = await ask(server.url, asked)
        told = await direct(engine, asked, CHAT)
        tool_id = re.compile(rb"chatcmpl-tool-[0-9a-f]+")
        assert tool_id.sub(b"", stable(body)) == tool_id.sub(b"", stable(told))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "options",
    [None, {}, {"include_usage": False}, {"include_usage": None}, {"include_usage": False, "extra": [1]}],
    ids=str,
)
async def test_usage_is_forced_upstream_and_taken_out_again(
    server: Tritium, engine: EchoEngine, path: str, options: dict[str, Any] | None
) -> None:
    asked = question(path, WORDS, stream=True, stream_options=options)
    _, body = await ask(server.url, asked, path)
    assert b"usage" not in body
    assert body.endswith(b"data: [DONE]\n\n")
    sent = json.loads(engine.stats()["last"]["body"])
    assert sent == {**asked, "stream_options": {**(options or {}), "include_usage": True}}


async def test_usage_on_each_chunk_stays_and_only_the_bare_chunk_goes(server: Tritium) -> None:
    options = {"include_usage": False, "continuous_usage_stats": True}
    _, body = await ask(server.url, question(CHAT, "a b c", stream=True, stream_options=options))
    chunks = [data_of(event) for event in body.split(b"\n\n")[:-2]]
    assert all(chunk["choices"] and chunk["usage"] for chunk in chunks)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", FAMILIES)
@pytest.mark.parametrize("fault", ["none", "split", "crlf"])
async def test_tokens_are_counted_in_every_family(server: Tritium, path: str, stream: bool, fault: str) -> None:
    def tokens() -> tuple[float, float]:
        at_rest(server)
        return count(server, "prompt_tokens_total"), count(server, "completion_tokens_total")

    before = tokens()
    asked = question(path, "one two three", stream=stream, echo={"fault": fault, "tokens": 7})
    await ask(server.url, asked, path)
    after = tokens()
    assert after[0] - before[0] > 0
    assert after[1] - before[1] == 7


async def test_the_first_chunk_leaves_while_the_engine_still_generates(server: Tritium, engine: EchoEngine) -> None:
    async with asking(server.url, question(stream=True, echo={"itl_ms": 600_000})) as answer:
        assert await answer.head() == 200
        assert b'"role":"assistant"' in await answer.event()
        assert b'"one"' in await answer.event()
        assert engine.stats()["active"] == 1


async def test_chunks_leave_one_by_one_as_they_come(server: Tritium) -> None:
    async with asking(server.url, question(words="w " * 20, stream=True, echo={"itl_ms": 25})) as answer:
        await answer.head()
        seen = []
        while await answer.chunk():
            seen.append(monotonic())
    gaps = sorted(later - earlier for earlier, later in pairwise(seen))
    median = gaps[len(gaps) // 2]
    print(f"gaps between chunks: median {median * 1000:.1f} ms of 25, longest {gaps[-1] * 1000:.1f} ms")
    assert len(seen) >= 20
    assert 0.02 < median < 0.03
    assert seen[-1] - seen[0] > 19 * 0.025 * 0.9


@pytest.mark.parametrize("path", FAMILIES)
async def test_a_stream_has_the_head_that_proxies_need(server: Tritium, path: str) -> None:
    answer, _ = await ask(server.url, question(path, stream=True), path)
    assert answer.status == 200
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "date" in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize("stream", [True, False])
async def test_the_request_id_is_kept_returned_and_passed_on(server: Tritium, engine: EchoEngine, stream: bool) -> None:
    answer, _ = await ask(server.url, question(stream=stream), CHAT, "X-Request-Id: mine-1")
    assert answer.headers["x-request-id"] == "mine-1"
    assert ["x-request-id", "mine-1"] in engine.stats()["last"]["headers"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_without_an_id_gets_one(server: Tritium, engine: EchoEngine, stream: bool) -> None:
    ids = [(await ask(server.url, question(stream=stream)))[0].headers["x-request-id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert ["x-request-id", ids[1]] in engine.stats()["last"]["headers"]


async def test_an_error_has_a_request_id_too(server: Tritium) -> None:
    answer, _ = await ask(server.url, question(model="nobody"), CHAT, "X-Request-Id: mine-2")
    assert (answer.status, answer.headers["x-request-id"]) == (404, "mine-2")


async def test_trace_context_and_protocol_versions_are_passed_on_and_secrets_are_not(
    server: Tritium, engine: EchoEngine
) -> None:
    passed = {
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "vendor=1",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "some",
    }
    kept = {"authorization": "Bearer secret", "x-api-key": "secret", "cookie": "a=b"}
    lines = [f"{name}: {value}" for name, value in {**passed, **kept}.items()]
    await ask(server.url, question(MESSAGES), MESSAGES, *lines)
    received = dict(engine.stats()["last"]["headers"])
    assert {name: received.get(name) for name in passed} == passed
    assert not kept.keys() & received.keys()


async def test_the_query_of_a_request_passes_on(server: Tritium, engine: EchoEngine) -> None:
    await ask(server.url, question(), f"{CHAT}?api-version=1&x=%20y")
    assert engine.stats()["last"]["path"] == f"{CHAT}?api-version=1&x=%20y"


async def test_one_connection_serves_one_stream_after_the_other(server: Tritium, engine: EchoEngine) -> None:
    async with asking(server.url, question(stream=True)) as answer:
        for number in range(5):
            assert await answer.head() == 200
            assert (await answer.rest()).endswith(b"data: [DONE]\n\n")
            if number < 4:
                data = json.dumps(question(stream=number % 2 == 0)).encode()
                answer.writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\n" % CHAT.encode())
                answer.writer.write(b"content-length: %d\r\n\r\n" % len(data) + data)
                if number % 2:
                    assert await answer.head() == 200
                    json.loads(await answer.rest())
                    break
    assert engine.stats()["aborted"] == 0


async def test_streams_share_kept_alive_connections_to_the_engine(server: Tritium, engine: EchoEngine) -> None:
    await ask(server.url, question(stream=True))
    before = engine.stats()["connections"]
    for _ in range(10):
        await ask(server.url, question(stream=True))
    assert engine.stats()["connections"] <= before


async def test_stream_false_and_null_are_answers_in_one_piece(server: Tritium) -> None:
    for path in (CHAT, RESPONSES):
        for stream in (False, None):
            answer, body = await ask(server.url, question(path, stream=stream), path)
            assert answer.headers["content-length"] == str(len(body))
            assert json.loads(body)["usage"]


async def test_a_hundred_streams_at_once_each_get_their_own_words(server: Tritium) -> None:
    async def one(number: int) -> bool:
        words = f"number {number} " * 10
        _, body = await ask(server.url, question(words=words, stream=True, echo={"itl_ms": 1}))
        chunks = [data_of(event) for event in body.split(b"\n\n")[:-2]]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip() == words.strip()

    assert all(await asyncio.gather(*map(one, range(100))))
