"""The wire to one client: what a turn wrote leaves together, and nothing of one client's end touches another."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from gateway.wire import Outbox, Wire
from tests.faults.talking import CHAT, connection, question, request
from tests.servers import Tritium


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, and raises once it is closed, as uvloop's does."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.calls: list[str] = []
        self.closed = False

    def write(self, data: Any) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")
        self.written.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


@pytest.fixture
async def outbox() -> Outbox:
    return Outbox(asyncio.get_running_loop())


def wired(outbox: Outbox) -> tuple[Wire, Recorder]:
    transport = Recorder()
    return Wire(transport, outbox), transport


async def test_what_a_turn_writes_leaves_in_one_piece_at_its_end(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.write(b"head ")
    wire.chunk(b"a" * 16)
    wire.chunk(b"b")
    assert transport.written == []
    await asyncio.sleep(0)
    assert transport.written == [b"head 10\r\n" + b"a" * 16 + b"\r\n1\r\nb\r\n"]
    wire.chunk(b"c")
    await asyncio.sleep(0)
    assert transport.written[1:] == [b"1\r\nc\r\n"]


@pytest.mark.parametrize("is_bare", [False, True])
async def test_lines_of_a_head_go_out_with_the_next_one_alone(outbox: Outbox, is_bare: bool) -> None:
    wire, transport = wired(outbox)
    wire = wire.bare() if is_bare else wire
    wire.head_lines = b"x-a: 1\r\nx-b: 2\r\n"
    wire.write(b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\n\r\n")
    wire.write(b"{}")
    wire.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await asyncio.sleep(0)
    head = b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\nx-a: 1\r\nx-b: 2\r\n\r\n"
    assert transport.written == [head + b"{}HTTP/1.1 200 OK\r\n\r\n"]


async def test_a_chunk_that_has_its_framing_goes_out_as_it_is_and_in_its_place(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.frame(b"3\r\none\r\n")  # the first of a turn sees to it that the turn is written
    await asyncio.sleep(0)
    assert transport.written == [b"3\r\none\r\n"]
    wire.chunk(b"two")
    wire.frame(b"05;a=b\r\nthree\r\n")
    wire.write(b"0\r\n\r\n")
    await asyncio.sleep(0)
    assert transport.written[1:] == [b"3\r\ntwo\r\n05;a=b\r\nthree\r\n0\r\n\r\n"]


TRAILERS = [(b"x-tritium-resumes", b"1"), (b"x-other", b"a b")]


async def test_trailers_stand_behind_the_last_chunk_and_end_the_answer(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.chunk(b"one")
    wire.trailers(TRAILERS)
    wire.write(b"0\r\n\r\n")
    await asyncio.sleep(0)
    assert transport.written == [b"3\r\none\r\n0\r\nx-tritium-resumes: 1\r\nx-other: a b\r\n\r\n"]


async def test_trailers_stand_behind_a_last_chunk_that_comes_with_bytes_before_it(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.trailers(TRAILERS[:1])
    wire.write(b"3\r\ntwo\r\n")
    wire.write(b"3\r\nend\r\n0\r\n\r\n")
    wire.flush()
    assert transport.written == [b"3\r\ntwo\r\n3\r\nend\r\n0\r\nx-tritium-resumes: 1\r\n\r\n"]


async def test_trailers_are_those_of_one_answer_alone(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.trailers(TRAILERS)
    wire.write(b"0\r\n\r\n")
    wire.write(b"1\r\na\r\n0\r\n\r\n")
    wire.trailers([])
    wire.write(b"1\r\nb\r\n0\r\n\r\n")
    wire.flush()
    assert transport.written[0].count(b"x-tritium-resumes") == 1
    assert transport.written[0].endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n1\r\nb\r\n0\r\n\r\n")


async def test_a_bare_wire_undoes_framing_and_tells_no_trailers(outbox: Outbox) -> None:
    transport = Recorder()
    wire = Wire(transport, outbox).bare()
    wire.write(b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.frame(b"4\r\none \r\n")
    wire.frame(b"0006;a=b\r\ntwo\r\n \r\n")
    wire.trailers(TRAILERS)
    wire.write(b"0\r\n\r\n")
    wire.flush()
    assert transport.written == [b"HTTP/1.1 200 OK\r\na: b\r\n\r\none two\r\n "]


async def test_what_is_framed_for_a_client_that_is_gone_is_dropped(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.lose()
    wire.frame(b"3\r\none\r\n")
    wire.trailers(TRAILERS)
    wire.write(b"0\r\n\r\n")
    await asyncio.sleep(0)
    assert transport.written == []


async def test_closing_writes_what_is_pending_first(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.write(b"last words")
    wire.close()
    assert transport.written == [b"last words"]
    assert transport.calls == ["close"]


async def test_a_client_that_is_gone_takes_no_other_clients_chunk_with_it(outbox: Outbox) -> None:
    gone, closed = wired(outbox)
    other, transport = wired(outbox)
    gone.chunk(b"before")
    closed.closed = True
    gone.lose()
    gone.chunk(b"after")
    other.chunk(b"mine")
    await asyncio.sleep(0)
    assert transport.written == [b"4\r\nmine\r\n"]
    assert closed.written == []
    other.chunk(b"more")
    await asyncio.sleep(0)
    assert transport.written[1:] == [b"4\r\nmore\r\n"]


async def test_nothing_that_is_asked_of_a_lost_wire_breaks(outbox: Outbox) -> None:
    wire, transport = wired(outbox)
    wire.lose()
    wire.write(b"a")
    wire.pause_reading()
    wire.resume_reading()
    wire.abort()
    wire.close()
    assert wire.is_closing()
    assert transport.calls == []
    await wire.drained()


async def test_departure_is_told_at_once_and_once(outbox: Outbox) -> None:
    wire, _ = wired(outbox)
    told: list[str] = []
    wire.lose()
    wire, _ = wired(outbox)
    wire.on_lost = lambda: told.append("left")
    wire.lose()
    assert told == ["left"]
    assert wire.lost


@pytest.mark.parametrize("how", ["resumed", "lost"])
async def test_draining_waits_until_the_client_reads_or_is_gone(outbox: Outbox, how: str) -> None:
    wire, _ = wired(outbox)
    await wire.drained()
    wire.flow(paused=True)
    waiting = asyncio.create_task(wire.drained())
    await asyncio.sleep(0)
    wire.flow(paused=True)
    await asyncio.sleep(0)
    assert not waiting.done()
    if how == "lost":
        wire.lose()
    else:
        wire.flow(paused=False)
    await waiting


async def test_a_bare_wire_undoes_chunks(outbox: Outbox) -> None:
    transport = Recorder()
    wire = Wire(transport, outbox).bare()
    wire.write(b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.chunk(b"one ")
    wire.write(b"4\r\ntwo \r\n")
    wire.write(b"6\r\nthree\n\r\n0\r\n\r\n")
    wire.write(b"0\r\n\r\n")
    wire.flush()
    assert transport.written == [b"HTTP/1.1 200 OK\r\na: b\r\n\r\none two three\n"]


async def test_a_bare_wire_leaves_an_answer_with_a_length_alone(outbox: Outbox) -> None:
    transport = Recorder()
    wire = Wire(transport, outbox).bare()
    wire.write(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")
    wire.write(b"0\r\n\r\nab")
    wire.flush()
    assert transport.written[0].endswith(b"\r\n\r\n0\r\n\r\nab")


async def test_a_client_that_is_held_back_is_seen_to_leave(outbox: Outbox) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        wire = Wire(transport, outbox)
        wire.pause_reading()
        theirs.send(b"more than is wanted")
        theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(1):
            while not wire.is_closing():
                await asyncio.sleep(0.01)


async def test_a_client_that_is_held_back_and_stays_is_left_alone(outbox: Outbox) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        wire = Wire(transport, outbox)
        wire.pause_reading()
        theirs.send(b"more than is wanted")
        await asyncio.sleep(0.6)
        assert not wire.is_closing()
        wire.resume_reading()
        wire.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_of_http_1_0_after_one_of_1_1_is_answered(server: Tritium, stream: bool) -> None:
    body = json.dumps(question(stream=stream)).encode()
    async with connection(server.url) as answer:
        answer.writer.write(request(CHAT, body) + request(CHAT, body, version="1.0"))
        assert await answer.head() == 200
        first = await answer.rest()
        assert await answer.head() == 200
        second = await answer.rest()
        assert len(first) == len(second)
        assert await answer.is_closed()


@pytest.mark.parametrize("path", ["/v1/models", "/health/live", "/docs", "/openapi.json", "/nowhere"])
async def test_every_route_serves_a_client_of_http_1_0(server: Tritium, path: str) -> None:
    async with connection(server.url) as answer:
        answer.writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert await answer.head() in (200, 404)
        assert await answer.rest()
        assert await answer.is_closed()


async def test_whole_answers_of_one_connection_have_their_heads_and_come_in_order(server: Tritium) -> None:
    bodies = [json.dumps(question(words=words, stream=False)).encode() for words in ("first", "second", "third")]
    async with connection(server.url) as answer:
        # The second comes ahead of its turn, the third once the connection is quiet again.
        answer.writer.write(request(CHAT, bodies[0], "x-request-id: a") + request(CHAT, bodies[1], "x-request-id: b"))
        for words, request_id in (("first", "a"), ("second", "b"), ("third", "c")):
            if request_id == "c":
                answer.writer.write(request(CHAT, bodies[2], "x-request-id: c"))
            assert await answer.head() == 200
            assert answer.headers["x-request-id"] == request_id
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["date"].endswith("GMT")
            assert "transfer-encoding" not in answer.headers
            body = await answer.rest()
            assert len(body) == int(answer.headers["content-length"])
            assert json.loads(body)["choices"][0]["message"]["content"] == words


async def test_a_whole_answer_to_a_client_that_wants_no_more_closes_the_connection(server: Tritium) -> None:
    body = json.dumps(question(stream=False)).encode()
    async with connection(server.url) as answer:
        answer.writer.write(request(CHAT, body, "connection: close"))
        assert await answer.head() == 200
        assert answer.headers["connection"] == "close"
        assert await answer.rest()
        assert await answer.is_closed()


async def test_an_answer_to_a_client_that_waits_for_100_continue_has_that_before_it(server: Tritium) -> None:
    body = json.dumps(question(stream=False)).encode()
    whole = request(CHAT, body, "expect: 100-continue")
    async with connection(server.url) as answer:
        answer.writer.write(whole[: -len(body)])
        assert await answer.head() == 100
        answer.writer.write(body)
        assert await answer.head() == 200
        assert json.loads(await answer.rest())["choices"]
