"""Clients that leave: at any moment the engine, the permit and the place in the queue are free within a second."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import pytest

from tests.engines import EchoEngine
from tests.faults.looking import (
    at_rest,
    complaints,
    connections,
    count,
    engine_of,
    rss_bytes,
    server_pids,
)
from tests.faults.talking import CHAT, FAMILIES, FOREVER, Answer, ask, asking, connection, question, request
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

AT_ONCE = 1.0
CROWD = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    models = {"echo": {"slots": 2000}, "narrow": {"slots": 1}}
    with serving(echo_repository(tmp_path_factory.mktemp("models"), models)) as tritium:
        yield tritium
        assert complaints(tritium) == []


@pytest.fixture(autouse=True)
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        echo.reset()
        yield echo
        await echo.idle(seconds=AT_ONCE)
    at_rest(server)
    assert count(server, "queue_depth") == 0
    assert count(server, "upstream_connections", state="active") == 0


async def underway(server: Tritium, number: int, model: str = "echo") -> None:
    while count(server, "requests_in_flight", model=model) != number:
        await asyncio.sleep(0.01)


def left(server: Tritium) -> dict[str, float]:
    phases = ("before_first_byte", "streaming", "queued")
    return {phase: count(server, "client_disconnects_total", phase=phase) for phase in phases}


def check_counted(server: Tritium, before: dict[str, float], phase: str, number: int = 1) -> None:
    at_rest(server)
    after = left(server)
    assert {name: after[name] - before[name] for name in after} == {**dict.fromkeys(after, 0), phase: number}


def by_reset(answer: Answer) -> None:
    """Its connection shall end by a reset, not by an end of file."""
    raw = answer.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["hang-before-head", "hang-before-first-token"])
@pytest.mark.parametrize("path", FAMILIES)
async def test_leaving_before_the_first_token_frees_the_engine(
    server: Tritium, engine: EchoEngine, path: str, fault: str, stream: bool
) -> None:
    async with asking(server.url, question(path, stream=stream, echo={"fault": fault}), path):
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1


@pytest.mark.parametrize("path", FAMILIES)
async def test_leaving_in_mid_stream_frees_the_engine(server: Tritium, engine: EchoEngine, path: str) -> None:
    before = left(server)
    async with asking(server.url, question(path, stream=True, echo={"itl_ms": 600_000}), path) as answer:
        await answer.head()
        await answer.event()
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1
    check_counted(server, before, "streaming")


async def test_leaving_an_answer_in_one_piece_while_it_is_made_frees_the_engine(
    server: Tritium, engine: EchoEngine
) -> None:
    before = left(server)
    async with asking(server.url, question(words="w " * 100, echo={"itl_ms": 6000})):
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1
    check_counted(server, before, "before_first_byte")


async def test_a_reset_is_a_departure_too(server: Tritium, engine: EchoEngine) -> None:
    for stream in (True, False):
        engine.reset()
        async with asking(server.url, question(stream=stream, echo={"itl_ms": 600_000})) as answer:
            await engine.holds(1)
            by_reset(answer)
        assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_half_closing_is_leaving(server: Tritium, engine: EchoEngine, stream: bool) -> None:
    async with asking(server.url, question(stream=stream, echo={"itl_ms": 600_000})) as answer:
        await engine.holds(1)
        answer.writer.write_eof()
        assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_the_queue_frees_the_place(server: Tritium, stream: bool) -> None:
    with engine_of(server, "narrow") as narrow:
        narrow.reset()
        async with asking(server.url, question(model="narrow", echo=FOREVER)):
            await underway(server, 1, "narrow")
            before = left(server)
            async with asking(server.url, question(model="narrow", stream=stream)):
                await underway(server, 2, "narrow")
                assert count(server, "queue_depth", model="narrow") == 1
            eventually(lambda: count(server, "queue_depth", model="narrow") == 0, seconds=AT_ONCE)
            assert left(server)["queued"] == before["queued"] + 1
        assert (await narrow.idle(seconds=AT_ONCE))["requests"] == 1
    # And the permit is free again.
    answer, _ = await ask(server.url, question(model="narrow"))
    assert answer.status == 200


@pytest.mark.parametrize("sent", [b"", b"POST ", b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"])
async def test_leaving_within_the_head_is_no_request(server: Tritium, sent: bytes) -> None:
    before = left(server)
    async with connection(server.url) as answer:
        answer.writer.write(sent)
        await answer.writer.drain()
    assert left(server) == before


async def test_leaving_while_uploading_ends_the_request(server: Tritium, engine: EchoEngine) -> None:
    before = left(server)
    async with connection(server.url) as answer:
        answer.writer.write(request(CHAT, b"x" * 3_000_000)[:2_000_000])
        await underway(server, 1, "unknown")
    check_counted(server, before, "before_first_byte")
    assert engine.stats()["requests"] == 0


@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_after_a_large_body_is_seen_as_well(
    server: Tritium, engine: EchoEngine, stream: bool, size: int
) -> None:
    asked = question(stream=stream, echo={"fault": "hang-before-head"}, padding="x" * size)
    async with asking(server.url, asked):
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_with_a_second_request_pipelined_is_seen_as_well(
    server: Tritium, engine: EchoEngine, stream: bool
) -> None:
    body = json.dumps(question(stream=stream, echo=FOREVER)).encode()
    async with asking(server.url, question(stream=stream, echo=FOREVER)) as answer:
        await engine.holds(1)
        answer.writer.write(request(CHAT, body) * 3)
        await answer.writer.drain()
        assert (await engine.holds(1))["requests"] == 1
    assert (await engine.idle(seconds=AT_ONCE))["requests"] == 1


async def test_pipelined_requests_are_answered_in_order(server: Tritium) -> None:
    bodies = [json.dumps(question(words=f"w{n}", stream=n % 2 == 0, echo={"ttft_ms": 20})).encode() for n in range(6)]
    async with connection(server.url) as answer:
        answer.writer.write(b"".join(request(CHAT, body) for body in bodies))
        for number in range(6):
            assert await answer.head() == 200
            assert f'"w{number}"'.encode() in await answer.rest()


async def test_a_client_that_pipelines_without_end_is_held_back(server: Tritium, engine: EchoEngine) -> None:
    (pid,) = server_pids(server)
    body = json.dumps(question(padding="x" * 200_000)).encode()
    async with asking(server.url, question(echo=FOREVER, padding="x" * 200_000)) as answer:
        await engine.holds(1)
        before = rss_bytes(pid)
        pushed = 0
        try:
            async with asyncio.timeout(1):
                while True:
                    answer.writer.write(request(CHAT, body))
                    await answer.writer.drain()
                    pushed += len(body)
        except TimeoutError:
            pass
        grown = rss_bytes(pid) - before
        by_reset(answer)  # an end of file would stand behind all of that
    print(f"pipelined {pushed / 1e6:.1f} MB behind a hanging request: the server process grew by {grown / 1e6:.1f} MB")
    assert grown < 8e6
    await engine.idle(seconds=AT_ONCE)


async def test_a_client_of_http_1_0_gets_bytes_without_chunks_and_then_the_end(server: Tritium) -> None:
    async with asking(server.url, question(stream=True), version="1.0") as answer:
        assert await answer.head() == 200
        assert "transfer-encoding" not in answer.headers
        body = await answer.rest()
        assert body.startswith(b"data: {")
        assert body.endswith(b"\n\ndata: [DONE]\n\n")
    async with asking(server.url, question(), version="1.0") as answer:
        assert await answer.head() == 200
        assert json.loads(await answer.rest())
        assert await answer.is_closed()


async def test_a_client_of_http_1_0_sees_an_error_event_and_may_leave(server: Tritium, engine: EchoEngine) -> None:
    asked = question(stream=True, echo={"fault": "cut", "after": 2})
    async with asking(server.url, asked, version="1.0") as answer:
        await answer.head()
        events = (await answer.rest()).split(b"\n\n")
        assert events[-2].startswith(b'data: {"error":{')
        assert events[-1] == b""
    async with asking(server.url, question(stream=True, echo={"itl_ms": 600_000}), version="1.0") as answer:
        await answer.head()
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE))["aborted"] == 1


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def opened(stack: AsyncExitStack, server: Tritium, asked: dict[str, Any]) -> Answer:
    return await stack.enter_async_context(asking(server.url, asked))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("phase", ["streaming", "before_first_byte"])
async def test_a_thousand_clients_that_leave_at_once_free_everything(
    server: Tritium, engine: EchoEngine, phase: str
) -> None:
    (pid,) = server_pids(server)
    before = left(server)
    echo = {"itl_ms": 100} if phase == "streaming" else FOREVER
    asked = question(words="w " * 1000, stream=True, echo=echo)
    async with AsyncExitStack() as stack:
        answers = [await opened(stack, server, asked) for _ in range(CROWD)]
        await engine.holds(CROWD, seconds=30)
        if phase == "streaming":
            for answer in answers:
                assert await answer.head() == 200
                await answer.event()
        full = rss_bytes(pid)
        for answer in answers:
            answer.writer.transport.abort()
        start = monotonic()
        await engine.idle(seconds=5)
        seconds = monotonic() - start
    check_counted(server, before, phase, CROWD)
    print(f"{CROWD} left {phase}: engine free after {seconds:.2f} s, {full / 1e6:.0f} MB with all of them")
    assert full < 150e6
    eventually(lambda: connections(pid) < 50, what="sockets closed", seconds=20)
    answer, body = await ask(server.url, question(stream=True))
    assert answer.status == 200
    assert body.endswith(b"data: [DONE]\n\n")


async def test_those_who_stay_get_every_word_while_others_leave(server: Tritium) -> None:
    """A departure in the same turn of the loop as another stream's chunk must not take that chunk with it."""
    words = " ".join(f"w{n}" for n in range(150))

    async def stay() -> bool:
        _, body = await ask(server.url, question(words=words, stream=True, echo={"itl_ms": 10}))
        texts = [json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in body.split(b"\n\n")[:-2]]
        return "".join(texts).strip() == words

    async def flit(number: int) -> None:
        for _ in range(20):
            async with asking(server.url, question(words=words, stream=True, echo={"itl_ms": 1})) as answer:
                await answer.head()
                await asyncio.sleep(0.001 * (number % 7))
                if number % 2:
                    by_reset(answer)

    async with asyncio.timeout(30):
        staying = asyncio.gather(*(stay() for _ in range(20)))
        await asyncio.gather(*map(flit, range(20)))
        assert all(await staying)
