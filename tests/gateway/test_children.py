"""Server processes as the supervisor keeps them: real processes, real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from backends.config import ModelConfig
from backends.model import State
from gateway.children import ServerChild, Timing
from gateway.metrics import Ledger
from gateway.snapshot import ModelStatus, Snapshot
from gateway.telemetry import Payload
from tests.processes import alive, holds

pytestmark = pytest.mark.slow  # whole processes are started, broken and stopped

TOY = (sys.executable, str(Path(__file__).with_name("toy_server.py")))
QUICK = Timing(
    start_seconds=20, ask_interval_seconds=0.05, answer_seconds=1, first_delay_seconds=0.01, longest_delay_seconds=0.02
)


class Keeper:
    """One kept server process with what the supervisor has around it."""

    def __init__(self, folder: Path, argv: Sequence[str], timing: Timing) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ledger = Ledger()
        self.snapshot = snapshot("first")
        self.journal = folder / "journal"
        self.child = ServerChild(
            0,
            self.listener,
            lambda: self.snapshot,
            self.ledger,
            settings_json=str(self.journal),
            argv=argv,
            timing=timing,
        )

    def told(self, pid: int | None = None) -> list[str]:
        """What the process was told, in order."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        parts = [line.split(" ", 1) for line in lines]
        return [text for whose, text in parts if pid is None or int(whose) == pid]

    async def greeting(self) -> int:
        """The pid that answers on the socket."""
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        try:
            return int(await asyncio.wait_for(reader.read(), 10))
        finally:
            writer.close()
            await writer.wait_closed()

    def counted(self) -> int:
        payloads = [msgspec.msgpack.decode(payload, type=Payload) for _, payload in self.ledger.entries()]
        return sum(sum(model.requests.values()) for payload in payloads for model in payload.models)


def snapshot(*names: str) -> Snapshot:
    return Snapshot(tuple(ModelStatus(ModelConfig(name, "echo"), State.READY) for name in names), settled=True)


@asynccontextmanager
async def kept(folder: Path, argv: Sequence[str] = TOY, timing: Timing = QUICK) -> AsyncIterator[Keeper]:
    keeper = Keeper(folder, argv, timing)
    life = asyncio.create_task(keeper.child.run())
    try:
        with keeper.listener:
            yield keeper
    finally:
        life.cancel()
        await asyncio.wait((life,))
        if not life.cancelled():
            life.result()


async def test_a_server_process_serves_on_the_socket_and_gets_the_snapshot(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await keeper.child.serving.wait()
        assert await keeper.greeting() == keeper.child.pid
        await holds(lambda: keeper.told() == ["first"])


async def test_changes_within_one_turn_of_the_loop_are_sent_as_one_snapshot(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await holds(lambda: keeper.told() == ["first"])
        for name in ("second", "third"):
            keeper.snapshot = snapshot(name)
            keeper.child.notify()
        await holds(lambda: keeper.told() == ["first", "third"])


async def test_a_killed_server_process_is_started_again_on_the_same_socket(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await keeper.child.serving.wait()
        first = await keeper.greeting()
        os.kill(first, signal.SIGKILL)
        await holds(lambda: not alive(first))
        second = await keeper.greeting()  # it waits in the socket's queue: no connection is refused
        assert second != first
        await holds(lambda: keeper.told(second) == ["first"])


async def test_a_server_process_that_does_not_answer_is_killed_and_started_again(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await keeper.child.serving.wait()
        first = await keeper.greeting()
        os.kill(first, signal.SIGSTOP)
        assert await keeper.greeting() != first
        assert not alive(first)


async def test_what_a_dead_process_counted_is_kept(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await keeper.child.serving.wait()
        assert await keeper.child.collect(5)
        assert keeper.counted() == 1
        first = keeper.child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await holds(lambda: keeper.child.pid not in {first, None} and keeper.child.serving.is_set())
        assert await keeper.child.collect(5)
        assert keeper.counted() == 2


async def test_a_process_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with kept(tmp_path, timing=Timing()) as keeper:
        assert not await keeper.child.collect(5)  # not started yet
        await keeper.child.serving.wait()
        assert await keeper.child.collect(5)
        assert keeper.child.pid is not None
        os.kill(keeper.child.pid, signal.SIGSTOP)
        assert not await keeper.child.collect(0.1)
        assert keeper.counted() == 1


async def test_draining_ends_it_for_good(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, TOY, QUICK)
    with keeper.listener:
        life = asyncio.create_task(keeper.child.run())
        await keeper.child.serving.wait()
        keeper.child.drain(7.5)
        await asyncio.wait_for(life, 10)
        assert keeper.told() == ["first", "drain 7.5"]
        assert keeper.child.pid is None


async def test_draining_between_two_lives_starts_no_other(tmp_path: Path) -> None:
    slow = Timing(first_delay_seconds=60, longest_delay_seconds=60)
    keeper = Keeper(tmp_path, TOY, slow)
    with keeper.listener:
        life = asyncio.create_task(keeper.child.run())
        await keeper.child.serving.wait()
        os.kill(await keeper.greeting(), signal.SIGKILL)
        await holds(lambda: keeper.child.pid is None)
        keeper.child.drain(1)
        await asyncio.wait_for(life, 10)


async def test_cancelling_kills_it(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await keeper.child.serving.wait()
        pid = await keeper.greeting()
    assert not alive(pid)


@pytest.mark.parametrize("argv", [("false",), ("/no/such/server",)])
async def test_one_that_never_serves_is_given_up(
    tmp_path: Path, argv: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(tmp_path, argv, QUICK)
    with keeper.listener:
        await asyncio.wait_for(keeper.child.run(), 20)
    assert not keeper.child.serving.is_set()
    assert "given up after 5 starts" in caplog.text


async def test_one_that_starts_but_does_not_serve_in_time_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = "import signal; signal.pause()"
    timing = Timing(start_seconds=0.2, futile_lives=2, first_delay_seconds=0.01)
    keeper = Keeper(tmp_path, (sys.executable, "-S", "-c", script), timing)
    with keeper.listener:
        await asyncio.wait_for(keeper.child.run(), 20)
    assert "does not serve after 0.2 s" in caplog.text
