"""Nothing is left behind: memory and connections after many streams are what they were before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.faults.looking import at_rest, complaints, connections, count, engine_of, rss_bytes, server_pids
from tests.faults.talking import CHAT, FAMILIES, ask, asking, question
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

STREAMS = 300
ROUNDS = 3
# Each kind of end has memory of its own to get, and cycles are collected rarely: whichever test comes first.
WARM_UP_ROUNDS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    models = {"echo": {"slots": 1000, "keep_alive_seconds": 1}}
    with serving(echo_repository(tmp_path_factory.mktemp("models"), models), "--keepalive-seconds=0.2") as tritium:
        yield tritium
        assert complaints(tritium) == []


async def whole(server: Tritium) -> None:
    """Streams that are read to their end, of every family."""
    echo = {"itl_ms": 5, "ttft_ms": 20}
    bodies = [(question(path, "w " * 25, stream=True, echo=echo), path) for path in FAMILIES]
    answers = await asyncio.gather(*(ask(server.url, *bodies[n % 4]) for n in range(STREAMS)))
    assert {answer.status for answer, _ in answers} == {200}


async def broken(server: Tritium) -> None:
    """Streams that end in every other way."""

    async def leave(asked: dict[str, Any]) -> None:
        async with asking(server.url, asked) as answer:
            await answer.head()
            await answer.event()

    async def one(number: int) -> None:
        match number % 4:
            case 0:
                await ask(server.url, question(stream=True, echo={"fault": "cut", "after": 2}))
            case 1:
                await ask(server.url, question(stream=True, echo={"fault": "refuse"}))
            case 2:
                await ask(server.url, question(stream=True, echo={"ttft_ms": 9000}), CHAT, "x-request-timeout-ms: 300")
            case _:
                await leave(question(stream=True, echo={"itl_ms": 9000}))

    await asyncio.gather(*map(one, range(STREAMS)))


@pytest.mark.parametrize("streams", [whole, broken])
async def test_memory_after_three_rounds_of_streams_is_what_it_was(server: Tritium, streams: Any) -> None:
    (pid,) = server_pids(server)
    figures = []
    for _ in range(WARM_UP_ROUNDS + ROUNDS):
        await streams(server)
        at_rest(server)
        eventually(lambda: connections(pid) < 40, seconds=20, what="connections closed")
        figures.append(rss_bytes(pid))
    sizes = ", ".join(f"{size / 1e6:.1f}" for size in figures)
    print(f"{streams.__name__}: RSS after each round of {STREAMS}: {sizes} MB")
    assert figures[-1] < figures[WARM_UP_ROUNDS - 1] * 1.05
    assert figures[-1] < 100e6
    with engine_of(server) as engine:
        await engine.idle(seconds=1)
    assert count(server, "upstream_connections", state="active") == 0


async def test_streams_at_once_cost_little_each(server: Tritium) -> None:
    (pid,) = server_pids(server)
    before = rss_bytes(pid)
    asked = question(words="w " * 1000, stream=True, echo={"itl_ms": 50})
    async with AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(asking(server.url, asked)) for _ in range(STREAMS)]
        for answer in answers:
            await answer.head()
            await answer.event()
        each = (rss_bytes(pid) - before) / STREAMS
    print(f"a stream under way costs {max(0.0, each) / 1e3:.0f} kB")
    assert each < 100e3
    at_rest(server)
