"""Clients that read slowly or not at all: bounded memory, a paused engine, nobody else held up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest

from tests.engines import EchoEngine
from tests.faults.looking import at_rest, complaints, connections, count, engine_of, rss_bytes, server_pids
from tests.faults.talking import CHAT, Answer, ask, asking, dropping, error_of, question, request
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

TOKENS = 40_000
"""Some 10 MB of chunks: more than all the buffers between the engine and the client hold."""
STALL = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    models = {"echo": {"max_model_len": 10 * TOKENS}}
    flags = (f"--stall-timeout={STALL}", "--keepalive-seconds=0.2")
    with serving(echo_repository(tmp_path_factory.mktemp("models"), models), *flags) as tritium:
        yield tritium
        assert complaints(tritium) == []


@pytest.fixture(autouse=True)
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        echo.reset()
        yield echo
        await echo.idle(seconds=1)
    at_rest(server)


@asynccontextmanager
async def not_reading(server: Tritium, body: dict[str, Any], *headers: str) -> AsyncIterator[Answer]:
    """A request whose answer is not read until somebody does; the client takes as little as a client can."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.http_port))
    async with dropping(*await asyncio.open_connection(sock=raw, limit=4096)) as answer:
        answer.writer.write(request(CHAT, json.dumps(body).encode(), *headers))
        yield answer


async def stopped(engine: EchoEngine) -> int:
    """How many tokens the engine had made when it made no more."""
    made = -1
    while (now := engine.stats()["generation_tokens"]) != made or not now:
        made = now
        await asyncio.sleep(0.15)
    return made


def flood(**echo: Any) -> dict[str, Any]:
    return question(stream=True, echo={"tokens": TOKENS, **echo})


async def test_a_client_that_reads_nothing_stops_the_engine_and_costs_little(
    server: Tritium, engine: EchoEngine
) -> None:
    await ask(server.url, question(words="w " * 500, stream=True))
    (pid,) = server_pids(server)
    before = rss_bytes(pid)
    async with not_reading(server, flood()):
        made = await stopped(engine)
        grown = rss_bytes(pid) - before
        print(f"not read: the engine stopped after {made} of {TOKENS} tokens, the gateway grew {grown / 1e6:.1f} MB")
        assert made < TOKENS / 2
        assert grown < 3e6
    assert (await engine.idle(seconds=1))["aborted"] == 1


async def test_clients_that_read_nothing_hold_up_nobody(server: Tritium, engine: EchoEngine) -> None:
    (pid,) = server_pids(server)
    before = rss_bytes(pid)
    asked = question(words="w " * 40, stream=True, echo={"itl_ms": 20})
    async with not_reading(server, flood()), not_reading(server, flood()), not_reading(server, flood()):
        await stopped(engine)
        grown = rss_bytes(pid) - before
        async with asking(server.url, asked) as answer:
            await answer.head()
            seen = []
            while await answer.chunk():
                seen.append(monotonic())
    longest = max(later - earlier for earlier, later in pairwise(seen))
    print(f"beside three that read nothing: longest gap {longest * 1000:.0f} ms of 20, grown by {grown / 1e6:.1f} MB")
    assert longest < 0.15
    assert grown < 9e6


async def test_a_slow_client_is_not_the_engines_stall_and_gets_every_byte(server: Tritium, engine: EchoEngine) -> None:
    async with not_reading(server, flood()) as answer:
        made = await stopped(engine)
        assert made < TOKENS
        await asyncio.sleep(3 * STALL)
        assert engine.stats()["active"] == 1
        assert await answer.head() == 200
        body = await answer.rest()
    assert body.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in body
    assert b": keep-alive" not in body
    assert body.count(b'"finish_reason":null') == TOKENS + 1


async def test_the_request_timeout_ends_a_stream_that_nobody_reads(server: Tritium, engine: EchoEngine) -> None:
    (pid,) = server_pids(server)
    before = connections(pid)
    errors = count(server, "errors_total", kind="deadline_exceeded")
    async with not_reading(server, flood(), "x-request-timeout-ms: 700"):
        start = monotonic()
        await stopped(engine)
        await engine.idle()
        assert monotonic() - start < 2
        # The client may still read why, for a while; then the connection goes, read or not.
        eventually(lambda: count(server, "errors_total", kind="deadline_exceeded") == errors + 1)
        eventually(lambda: connections(pid) <= before, seconds=5, what="the connection closed")


async def test_a_client_that_reads_again_in_time_is_told_why_its_stream_ended(
    server: Tritium, engine: EchoEngine
) -> None:
    async with not_reading(server, flood(), "x-request-timeout-ms: 700") as answer:
        await stopped(engine)
        await engine.idle()
        await answer.head()
        events = (await answer.rest()).split(b"\n\n")
    assert error_of(events[-2])["code"] == "request_timeout"
    assert b"[DONE]" not in events[-3]


@pytest.mark.parametrize("half", [True, False])
async def test_a_client_that_leaves_without_having_read_frees_the_engine(
    server: Tritium, engine: EchoEngine, half: bool
) -> None:
    async with not_reading(server, flood()) as answer:
        await stopped(engine)
        if half:
            answer.writer.write_eof()
            assert (await engine.idle(seconds=1))["aborted"] == 1
    assert (await engine.idle(seconds=1))["aborted"] == 1


async def test_a_large_answer_that_is_not_read_does_not_hold_its_permit(server: Tritium, engine: EchoEngine) -> None:
    async with not_reading(server, question(echo={"tokens": TOKENS})):
        eventually(lambda: engine.stats()["finished"] == 1)
        at_rest(server)
