"""Faults on demand: each does to the connection and to the bytes what its name says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.backends.simulator.asking import chat, events, post, request, said
from tests.engines import EchoEngine, echo_engine
from tests.waiting import eventually_async

CHAT = "/v1/chat/completions"
MESSAGE = "one two three four"


@pytest.fixture(scope="module")
def tcp_engine() -> Iterator[EchoEngine]:
    with echo_engine(tcp=True) as engine:
        yield engine


def faulty(fault: str, *, stream: bool = True, **wishes: Any) -> dict[str, Any]:
    return chat(MESSAGE, stream=stream, echo={"fault": fault, **wishes})


async def exchange(engine: EchoEngine, body: dict[str, Any], path: str = CHAT) -> tuple[bytes, Exception | None]:
    """What comes until the connection ends, and the error it ends with."""
    received = b""
    async with engine.connect() as (reader, writer):
        writer.write(request(path, body, "connection: close"))
        try:
            while data := await asyncio.wait_for(reader.read(65536), 5):
                received += data
        except ConnectionResetError as error:
            return received, error
    return received, None


async def test_refuse_closes_the_connection_without_an_answer(engine: EchoEngine) -> None:
    for stream in (True, False):
        assert await exchange(engine, faulty("refuse", stream=stream)) == (b"", None)


@pytest.mark.parametrize("stream", [True, False])
async def test_hang_before_the_head_sends_nothing(client: httpx.AsyncClient, stream: bool) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=faulty("hang-before-head", stream=stream), timeout=0.1)


async def test_hang_before_the_first_token_sends_the_head_alone(client: httpx.AsyncClient) -> None:
    async with client.stream("POST", CHAT, json=faulty("hang-before-first-token"), timeout=0.2) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            await anext(answer.aiter_bytes())


async def test_hang_comes_after_the_tokens_that_were_asked(engine: EchoEngine, client: httpx.AsyncClient) -> None:
    async with engine.connect() as (reader, writer):
        writer.write(request(CHAT, faulty("hang", after=2)))
        await asyncio.wait_for(reader.readuntil(b'" two"'), 5)
        await reader.readuntil(b"\n\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=faulty("hang", stream=False), timeout=0.1)


async def test_cut_resets_within_an_http_chunk_and_an_event(tcp_engine: EchoEngine, engine: EchoEngine) -> None:
    for each in (tcp_engine, engine):
        received, failure = await exchange(each, faulty("cut", after=3))
        assert received.endswith(b'\r\n100\r\ndata: {"id":"cut')
        assert received.count(b'"content":" t') == 2
        assert (failure is not None) == (each is tcp_engine)
        received, _ = await exchange(each, faulty("cut", stream=False))
        assert b"content-length: 4096\r\n" in received
        assert received.endswith(b'{"id":"cut')


async def test_eof_ends_the_body_in_order_but_without_done(engine: EchoEngine) -> None:
    received, _ = await exchange(engine, faulty("eof", after=2))
    assert received.endswith(b"\n\n\r\n0\r\n\r\n")
    assert b"[DONE]" not in received
    assert b'"stop"' not in received
    assert b" two" in received
    assert b" three" not in received


async def test_faults_after_the_last_token_strike_before_the_end(engine: EchoEngine) -> None:
    received, _ = await exchange(engine, faulty("eof", after=4))
    assert b" four" in received
    assert b"[DONE]" not in received


async def test_an_error_event_comes_in_mid_stream(client: httpx.AsyncClient) -> None:
    data = events((await client.post(CHAT, json=faulty("error-event", after=2))).text)
    assert said(data[:-2]) == ["one", " two"]
    assert data[-2]["error"]["code"] == 500
    body = {"max_tokens": 9, "messages": chat(MESSAGE)["messages"], "stream": True, "echo": {"fault": "error-event"}}
    assert "event: error\n" in (await client.post("/v1/messages", json=body)).text


async def test_statuses_come_as_vllms_errors(client: httpx.AsyncClient) -> None:
    for status in (400, 429, 500, 503):
        answer = await client.post(CHAT, json=faulty(str(status), retry_after=2.5))
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
        assert answer.headers.get("retry-after") == ("2.5" if status in (429, 503) else None)


async def test_errors_come_in_the_shapes_of_other_engines(client: httpx.AsyncClient) -> None:
    flat = await client.post(CHAT, json=faulty("flat-error"))
    assert (flat.status_code, flat.json()["object"], flat.json()["code"]) == (400, "error", 400)
    string = await client.post(CHAT, json=faulty("string-error"))
    assert (string.status_code, type(string.json()["error"])) == (400, str)
    text = await client.post(CHAT, json=faulty("text-error"))
    assert (text.status_code, text.text) == (500, "Internal Server Error")


async def test_slow_spreads_the_tokens(client: httpx.AsyncClient) -> None:
    began = time.monotonic()
    answer = await client.post(CHAT, json=faulty("slow", itl_ms=40))
    assert time.monotonic() - began > 0.1
    assert said(events(answer.text)) == ["one", " two", " three", " four"]


async def test_split_puts_events_across_chunk_borders(engine: EchoEngine, client: httpx.AsyncClient) -> None:
    plain = await client.post(CHAT, json=chat(MESSAGE, stream=True), headers={"x-request-id": "same"})
    received, _ = await exchange(engine, faulty("split"))
    _, _, rest = received.partition(b"\r\n\r\n")
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert b"".join(chunks).count(b"\n\n") == plain.text.count("\n\n")
    assert any(b"\n\nd" in chunk for chunk in chunks)
    assert said(events(b"".join(chunks).decode())) == ["one", " two", " three", " four"]


async def test_crlf_and_comments_change_the_layout_alone(client: httpx.AsyncClient) -> None:
    crlf = await client.post(CHAT, json=faulty("crlf"))
    assert crlf.text.count("\r\n\r\n") == 7
    assert said(events(crlf.text)) == ["one", " two", " three", " four"]
    comments = await client.post(CHAT, json=faulty("keepalive-comments"))
    assert comments.text.count(": keep-alive\n\ndata: ") == 7
    assert said(events(comments.text)) == ["one", " two", " three", " four"]


async def test_exit_ends_the_process_at_once_or_in_mid_answer() -> None:
    with echo_engine() as engine:
        received, _ = await exchange(engine, faulty("exit"))
        assert received == b""
        assert engine.process.wait(5) == 1
    with echo_engine() as engine:
        received, _ = await exchange(engine, faulty("exit", after=2))
        assert b" two" in received
        assert b" three" not in received
        assert engine.process.wait(5) == 1


async def test_a_header_asks_as_the_body_does(client: httpx.AsyncClient) -> None:
    headers = {"X-Echo-Fault": "eof; after=3"}
    answer = await client.post(CHAT, json=chat(MESSAGE, stream=True), headers=headers)
    assert said(events(answer.text)) == ["one", " two", " three"]
    answer = await client.post(CHAT, json=chat(), headers={"X-Echo-Fault": "unheard-of"})
    assert answer.status_code == 400


async def test_a_fault_of_the_process_strikes_as_often_as_told(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    engine.configure(fault="500", times=2)
    statuses = [(await client.post(CHAT, json=chat())).status_code for _ in range(3)]
    assert statuses == [500, 500, 200]
    engine.configure(fault="429", times=0)
    assert [(await client.post(CHAT, json=chat())).status_code for _ in range(3)] == [429] * 3
    assert (await client.get("/v1/models")).status_code == 200
    engine.configure(fault="none")
    assert (await client.post(CHAT, json=chat())).status_code == 200


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/v1/score"])
async def test_faults_strike_where_there_are_no_tokens_too(engine: EchoEngine, path: str) -> None:
    fields = {"input": "a", "query": "a", "documents": ["a"], "text_1": "a", "text_2": "a"}
    received, _ = await exchange(engine, {**fields, "echo": {"fault": "cut"}}, path)
    assert received.endswith(b'{"id":"cut')


async def test_pace_holds_streamed_or_not(client: httpx.AsyncClient) -> None:
    for stream in (True, False):
        body = chat(MESSAGE, stream=stream, echo={"ttft_ms": 50, "itl_ms": 30})
        began = time.monotonic()
        async with client.stream("POST", CHAT, json=body) as answer:
            await anext(answer.aiter_bytes())
            first = time.monotonic() - began
            await answer.aclose()
        assert first > (0.04 if stream else 0.13)


async def test_a_slow_reader_holds_the_engine_back(engine: EchoEngine) -> None:
    async with engine.connect() as (reader, writer):
        writer.write(request(CHAT, chat(stream=True, max_tokens=20000, ignore_eos=True)))
        await reader.readuntil(b"\r\n\r\n")
        # Nobody reads from here on: sockets and buffers hold some tokens, but nowhere near all of them.
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # streams have no way to say it
        produced = -1

        async def stalled() -> bool:
            nonlocal produced
            before, produced = produced, int(engine.stats()["generation_tokens"])
            return before == produced

        await eventually_async(stalled)
        assert produced < 19000
    assert (await engine.idle(seconds=0.5))["aborted"] == 1


async def test_json_answers_are_json(client: httpx.AsyncClient) -> None:
    whole = await post(client, CHAT, chat('quotes " and \\ and \u2603'))
    assert whole["choices"][0]["message"]["content"] == json.loads('"quotes \\" and \\\\ and \\u2603"')
