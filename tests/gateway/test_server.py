"""A server process by itself: led over its control channel, on the socket that it was given."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from backends.config import ModelConfig
from backends.model import Endpoint, State
from gateway.channel import Channel
from gateway.led import SETTINGS_VARIABLE
from gateway.settings import Settings
from gateway.snapshot import Counters, Drain, ModelStatus, Scrape, Serving, Snapshot
from gateway.telemetry import Payload
from tests.engines import EchoEngine, echo_engine
from tests.faults.talking import ask, asking, question
from tests.servers import ROOT, status

pytestmark = pytest.mark.slow  # whole processes are started, broken and stopped

ENDLESS = question(stream=True, echo={"itl_ms": 600_000})


@pytest.fixture(scope="module")
def engine() -> Iterator[EchoEngine]:
    with echo_engine() as echo:
        yield echo


@dataclass
class Led:
    process: subprocess.Popen[bytes]
    channel: Channel
    url: str

    async def ends(self) -> int:
        async with asyncio.timeout(10):
            return await asyncio.to_thread(self.process.wait)


def snapshot(engine: EchoEngine, state: State = State.READY, *, settled: bool = True) -> Snapshot:
    endpoint = Endpoint("echo-1-0", engine.address, state)
    config = ModelConfig("echo", backend="echo")
    return Snapshot((ModelStatus(config, state, "because" * (state is not State.READY), (endpoint,)),), settled)


@asynccontextmanager
async def led(first: Snapshot | None, **settings: object) -> AsyncIterator[Led]:
    """A server process that serves, unless there is no first snapshot to give it."""
    ours, theirs = socket.socketpair()
    chosen = Settings.model_validate({"access_log": False, **settings})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fds = listener.fileno(), theirs.fileno()
        process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
            [sys.executable, "-m", "gateway.server", "--listen-fd", str(fds[0]), "--control-fd", str(fds[1])],
            cwd=ROOT,
            env={**os.environ, SETTINGS_VARIABLE: chosen.model_dump_json()},
            pass_fds=fds,
        )
        theirs.close()
        channel = await Channel.open(ours)
        try:
            if first is not None:
                await channel.send(first)
                async with asyncio.timeout(20):
                    assert await channel.receive() == Serving(process.pid)
            yield Led(process, channel, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            await channel.close()
            process.kill()
            process.wait()


async def health(server: Led, route: str = "ready") -> int:
    return await asyncio.to_thread(status, f"{server.url}/health/{route}")


async def test_it_serves_what_the_snapshot_says(engine: EchoEngine) -> None:
    async with led(snapshot(engine)) as server:
        answer, body = await ask(server.url, question(stream=True))
        assert answer.status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        assert await health(server) == 200
        await server.channel.send(Drain(5))
        assert await server.ends() == 0


async def test_each_snapshot_replaces_the_one_before(engine: EchoEngine) -> None:
    async def becomes(server: Led, ready: int, asked: int) -> None:
        async with asyncio.timeout(5):
            while await health(server) != ready:
                await asyncio.sleep(0.01)
        assert (await ask(server.url, question()))[0].status == asked

    async with led(snapshot(engine, State.STARTING, settled=False)) as server:
        await becomes(server, 503, 503)
        assert await health(server, "live") == 200
        await server.channel.send(snapshot(engine))
        await becomes(server, 200, 200)
        await server.channel.send(snapshot(engine, State.RESTARTING))
        await becomes(server, 503, 503)
        await server.channel.send(Snapshot((), settled=True))
        await becomes(server, 200, 404)


async def test_it_tells_its_counters_when_it_is_asked(engine: EchoEngine) -> None:
    async with led(snapshot(engine)) as server:
        await ask(server.url, question(stream=True))
        await server.channel.send(Scrape(7))
        answer = await server.channel.receive()
        assert isinstance(answer, Counters)
        assert answer.id == 7
        payload = msgspec.msgpack.decode(answer.payload, type=Payload)
        (model,) = [model for model in payload.models if model.name == "echo"]
        assert model.requests == {("chat_completions", 200): 1}


async def test_it_accepts_before_its_first_snapshot_by_the_sockets_queue_alone(engine: EchoEngine) -> None:
    async with led(None) as server, asking(server.url, question()) as early:
        await server.channel.send(snapshot(engine))
        assert await early.head() == 200


async def test_it_ends_when_the_supervisor_is_gone(engine: EchoEngine) -> None:
    async with led(snapshot(engine)) as server, asking(server.url, ENDLESS) as answer:
        await answer.head()
        await server.channel.close()
        assert await server.ends() == 1
    await engine.idle(seconds=1)


@pytest.mark.parametrize("how", ["drain", "sigterm"])
async def test_a_drain_without_work_ends_at_once_and_well(engine: EchoEngine, how: str) -> None:
    async with led(snapshot(engine)) as server:
        if how == "drain":
            await server.channel.send(Drain(30))
        else:
            server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            assert await server.ends() == 0


async def test_a_drain_takes_the_time_that_it_was_given(engine: EchoEngine) -> None:
    async with led(snapshot(engine), exit_timeout_secs=30) as server, asking(server.url, ENDLESS) as answer:
        await answer.head()
        await server.channel.send(Drain(0.3))
        assert b"shutting down" in await answer.rest()
        assert await server.ends() == 0
    await engine.idle(seconds=1)


async def test_an_interrupt_is_the_supervisors_business(engine: EchoEngine) -> None:
    async with led(snapshot(engine)) as server:
        server.process.send_signal(signal.SIGINT)
        assert (await ask(server.url, question()))[0].status == 200
        assert server.process.poll() is None
