"""The answer to one client: heads, signs of life, and failure before and after the first byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from backends.errors import Overloaded, UpstreamError
from gateway.dialect import Dialect
from gateway.openai.chat import CHAT
from gateway.openai.messages import MESSAGES
from gateway.reply import Reply
from gateway.wire import Outbox, Wire

ERROR = UpstreamError("It broke.")


class Client:
    """A client behind ASGI and a wire: `heard` is everything it was sent, heads as their status and fields."""

    def __init__(self, dialect: Dialect = CHAT) -> None:
        self.heard: list[Any] = []
        self.aborted = False
        client = self

        class Transport(asyncio.Transport):
            def write(self, data: Any) -> None:
                client.heard.append(bytes(data))

            def abort(self) -> None:
                client.aborted = True
                client.wire.lose()

        self.wire = Wire(Transport(), Outbox(asyncio.get_running_loop()))
        self.reply = Reply(dialect, b"id-1", self.wire, self.send)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.wire.paused:
            await asyncio.Event().wait()  # uvicorn waits too, and is not told when a wire is lost
        if message["type"] == "http.response.start":
            lines, self.wire.head_lines = self.wire.head_lines, b""  # as the wire does with the first bytes
            fields = [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n")[:-1]]
            self.heard.append((message["status"], dict([*message["headers"], *fields])))
        else:
            assert not message["more_body"]
            self.heard.append(message["body"])


async def test_a_stream_has_the_engines_fields_ours_and_the_request_id() -> None:
    client = Client()
    await client.reply.start_stream(200, [(b"content-type", b"text/event-stream"), (b"x-engine", b"e")])
    assert client.heard == [
        (
            200,
            {
                b"content-type": b"text/event-stream",
                b"x-engine": b"e",
                b"cache-control": b"no-cache",
                b"x-accel-buffering": b"no",
                b"x-request-id": b"id-1",
            },
        )
    ]
    assert client.reply.status == 200


async def test_fields_of_ours_go_out_with_any_head() -> None:
    ours = [(b"x-ratelimit-limit-requests", b"5")]
    heads = []
    for way in ("stream", "whole", "fail", "keep-alive"):
        client = Client()
        client.reply.fields = ours
        if way == "stream":
            await client.reply.start_stream(200, [])
        elif way == "whole":
            await client.reply.whole(200, [], b"{}")
        elif way == "fail":
            await client.reply.fail(Overloaded("Full."), close=False)
        else:
            client.reply.keep_alive()
        heads.append(client.heard[0][1])
    assert all(head[b"x-ratelimit-limit-requests"] == b"5" for head in heads)


async def test_an_answer_in_one_piece_has_its_length() -> None:
    client = Client()
    await client.reply.whole(201, [(b"content-type", b"application/json")], b"{}")
    (status, fields), body = client.heard
    assert (status, fields[b"content-length"], body) == (201, b"2", b"{}")


@pytest.mark.parametrize("close", [True, False])
async def test_a_failure_before_the_first_byte_is_a_status(close: bool) -> None:
    client = Client()
    assert await client.reply.fail(Overloaded("Full.", retry_after_seconds=1.5), close=close) == 429
    (status, fields), body = client.heard
    assert status == 429
    assert (fields[b"retry-after"], fields[b"retry-after-ms"]) == (b"2", b"1500")
    assert (b"connection" in fields) == close
    assert json.loads(body)["error"]["message"] == "Full."


@pytest.mark.parametrize(("dialect", "start"), [(CHAT, b'data: {"error":{'), (MESSAGES, b"event: error\ndata: {")])
async def test_a_failure_after_the_first_byte_is_the_last_event(dialect: Dialect, start: bytes) -> None:
    client = Client(dialect)
    await client.reply.start_stream(200, [])
    assert await client.reply.fail(ERROR, close=True) == 200
    event = client.heard[-1]
    assert event.startswith(start)
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1


async def test_where_the_engine_has_told_why_nothing_is_added() -> None:
    client = Client()
    await client.reply.start_stream(200, [])
    client.reply.told = True
    assert await client.reply.fail(ERROR, close=False) == 200
    assert client.heard[-1] == b""


async def test_the_first_comment_brings_the_head_of_a_stream() -> None:
    client = Client()
    client.reply.keep_alive()
    client.reply.keep_alive()
    await asyncio.sleep(0)
    (status, fields), comments = client.heard
    assert status == 200
    assert fields[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert fields[b"x-request-id"] == b"id-1"
    assert comments == b"e\r\n: keep-alive\n\n\r\n" * 2
    assert client.reply.status == 200


async def test_a_client_that_has_yet_to_read_gets_no_comment() -> None:
    client = Client()
    client.wire.flow(paused=True)
    client.reply.keep_alive()
    await asyncio.sleep(0)
    assert client.heard == []
    assert client.reply.status == 0


async def test_a_client_that_never_reads_why_is_cut_off() -> None:
    client = Client()
    await client.reply.start_stream(200, [])
    client.wire.flow(paused=True)
    async with asyncio.timeout(5):
        assert await client.reply.fail(ERROR, close=False) == 200
    assert client.aborted
    assert len(client.heard) == 1
