"""Engine processes and remote endpoints as they are kept and watched: real processes, real sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from backends.engine.command import Command
from backends.engine.process import EngineProcess
from backends.engine.watch import Patience, RemoteEndpoint
from backends.model import State
from tests.processes import alive, holds, parent, pids

pytestmark = pytest.mark.slow  # whole processes are started, broken and stopped

TOY = str(Path(__file__).with_name("toy.py"))
HASTY = Patience(
    interval_seconds=0.05,
    timeout_seconds=0.3,
    unhealthy_after=2,
    hung_after=4,
    first_delay_seconds=0.02,
    longest_delay_seconds=0.05,
    grace_seconds=0.5,
)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p")  # short: a Unix socket's path has at most 107 bytes


def toy(folder: Path, *faults: str) -> Command:
    return Command(
        argv=(sys.executable, "-I", "-S", TOY, str(folder / "s"), str(folder), *faults),
        address=f"unix:{folder / 's'}",
        env={"PYTHONUNBUFFERED": "1"},
        start_timeout_seconds=20,
    )


@asynccontextmanager
async def kept(command: Command, patience: Patience = HASTY) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess("toy-1-0", command, "toy", asyncio.Event(), patience)
    life = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        life.cancel()
        await asyncio.wait((life,))
        if not life.cancelled():
            life.result()


def is_(endpoint: EngineProcess | RemoteEndpoint, state: State, restarts: int | None = None) -> Callable[[], bool]:
    return lambda: endpoint.status.state is state and restarts in {None, endpoint.status.restarts}


async def test_an_engine_becomes_ready_and_tells_its_context_length(folder: Path) -> None:
    async with kept(toy(folder)) as engine:
        assert is_(engine, State.STARTING)()
        assert not engine.status.settled
        await holds(is_(engine, State.READY))
        await holds(lambda: engine.status.settled)
        await holds(lambda: engine.status.context_length == 2048)
        family = pids(folder)
    assert is_(engine, State.STOPPED)()
    assert not alive(family["engine"])


async def test_every_change_sets_the_event(folder: Path) -> None:
    async with kept(replace(toy(folder), context_length=7)) as engine:
        changed = engine.status._changed
        await asyncio.wait_for(changed.wait(), 10)
        assert is_(engine, State.READY)()
        changed.clear()
        engine.drain()
        assert changed.is_set()
        assert is_(engine, State.DRAINING)()
        assert engine.status.context_length == 7


async def test_a_stale_socket_does_not_hinder_the_start(folder: Path) -> None:
    (folder / "s").touch()
    async with kept(toy(folder)) as engine:
        await holds(is_(engine, State.READY))


async def test_an_engine_that_loads_is_not_ready_before_its_health_route_says_so(folder: Path) -> None:
    async with kept(toy(folder, "late")) as engine:
        await holds((folder / "engine.pid").exists)
        assert is_(engine, State.STARTING)()
        (folder / "go").touch()
        await holds(is_(engine, State.READY))


async def test_kill_9_of_the_engine_is_noticed_at_once_and_it_comes_back(folder: Path) -> None:
    patience = replace(HASTY, interval_seconds=60, first_delay_seconds=0.2)
    async with kept(toy(folder, "family"), patience) as engine:
        await holds(is_(engine, State.READY))
        family = pids(folder)
        (folder / "engine.pid").unlink()
        killed_at = time.monotonic()
        os.kill(family["engine"], signal.SIGKILL)
        await holds(is_(engine, State.RESTARTING))
        assert "SIGKILL" in engine.status.reason
        assert not any(alive(pid) for pid in family.values())
        await holds(is_(engine, State.READY))
        assert time.monotonic() - killed_at < 2
        assert engine.status.restarts == 1
        assert engine.status.reason == ""


async def test_kill_9_of_the_guard_leaves_no_orphan_and_the_engine_comes_back(folder: Path) -> None:
    async with kept(toy(folder, "family", "deaf")) as engine:
        await holds(is_(engine, State.READY))
        family = pids(folder)
        assert engine.pid == parent(parent(family["engine"]))
        os.kill(engine.pid, signal.SIGKILL)
        await holds(is_(engine, State.RESTARTING))
        assert not any(alive(pid) for pid in family.values())
        await holds(is_(engine, State.READY))


async def test_an_engine_that_ignores_sigterm_is_killed_with_its_family(folder: Path) -> None:
    async with kept(toy(folder, "family", "deaf")) as engine:
        await holds(is_(engine, State.READY))
        family = pids(folder)
    assert not any(alive(pid) for pid in family.values())


async def test_cancelling_twice_does_not_wait_for_the_grace(folder: Path) -> None:
    engine = EngineProcess("toy-1-0", toy(folder, "deaf"), "toy", asyncio.Event(), replace(HASTY, grace_seconds=60))
    life = asyncio.create_task(engine.run())
    await holds(is_(engine, State.READY))
    family = pids(folder)
    guard = parent(family["engine"])
    life.cancel()
    await asyncio.wait((life,), timeout=0.1)
    assert alive(family["engine"])
    life.cancel()
    await asyncio.wait((life,), timeout=5)
    assert life.cancelled()
    await holds(lambda: not Path(f"/proc/{guard}").exists())  # nobody waits for it any more but the loop
    await holds(lambda: not alive(family["engine"]))


async def test_a_crash_before_ready_is_retried_twice_and_then_told_with_the_last_lines(folder: Path) -> None:
    async with kept(toy(folder, "crash")) as engine:
        await holds(is_(engine, State.FAILED))
        assert engine.status.restarts == 2
        assert engine.status.settled
        assert engine.status.reason == (
            "exited with status 1 before it was ready (given up after 2 restarts)"
            "\n  loading weights\n  no such file: weights.gguf"
        )


async def test_a_missing_executable_fails_at_once(folder: Path) -> None:
    async with kept(replace(toy(folder), argv=("/no/such/engine",))) as engine:
        await holds(is_(engine, State.FAILED))
        assert engine.status.restarts == 0
        assert "cannot start /no/such/engine" in engine.status.reason


async def test_a_missing_working_directory_fails_at_once(folder: Path) -> None:
    async with kept(replace(toy(folder), cwd="/no/such/folder")) as engine:
        await holds(is_(engine, State.FAILED))
        assert "/no/such/folder" in engine.status.reason


async def test_an_engine_that_does_not_become_ready_in_time_fails(folder: Path) -> None:
    async with kept(replace(toy(folder, "late"), start_timeout_seconds=3.0)) as engine:
        await holds(is_(engine, State.FAILED))
        assert "not ready within 3 s: /health answered 503" in engine.status.reason
        assert not any(alive(pid) for pid in pids(folder).values())


async def test_an_engine_that_goes_on_crashing_is_given_up(folder: Path) -> None:
    async with kept(toy(folder), replace(HASTY, max_restarts=3)) as engine:
        for restarts in range(4):
            await holds(is_(engine, State.READY, restarts))
            os.kill(pids(folder)["engine"], signal.SIGABRT)
            (folder / "engine.pid").unlink()
        await holds(is_(engine, State.FAILED))
        assert engine.status.reason.startswith("was killed by SIGABRT")
        assert "given up after 3 restarts" in engine.status.reason
        assert "toy engine ready" in engine.status.reason


async def test_a_stable_period_forgets_the_crashes_before_it(folder: Path) -> None:
    async with kept(toy(folder), replace(HASTY, max_restarts=1, stable_seconds=0.0)) as engine:
        for restarts in range(4):
            await holds(is_(engine, State.READY, restarts))
            os.kill(pids(folder)["engine"], signal.SIGABRT)
            (folder / "engine.pid").unlink()
        await holds(is_(engine, State.READY, 4))


async def test_an_engine_that_has_served_is_not_given_up_however_often_it_is_killed(folder: Path) -> None:
    async with kept(toy(folder), replace(HASTY, max_restarts=1)) as engine:
        for restarts in range(4):
            await holds(is_(engine, State.READY, restarts))
            os.kill(pids(folder)["engine"], signal.SIGKILL)
            (folder / "engine.pid").unlink()
        await holds(is_(engine, State.READY, 4))


async def test_an_engine_that_is_killed_before_it_ever_served_is_given_up(folder: Path) -> None:
    async with kept(toy(folder, "late"), replace(HASTY, max_restarts=1)) as engine:
        for _ in range(2):
            await holds((folder / "engine.pid").exists)
            os.kill(pids(folder)["engine"], signal.SIGKILL)
            (folder / "engine.pid").unlink()
        await holds(is_(engine, State.FAILED))


async def test_an_unhealthy_engine_that_recovers_is_ready_again_without_a_restart(folder: Path) -> None:
    async with kept(toy(folder), replace(HASTY, hung_after=10_000)) as engine:
        await holds(is_(engine, State.READY))
        (folder / "sick").touch()
        await holds(is_(engine, State.UNHEALTHY))
        assert engine.status.reason == "/health answered 503"
        (folder / "sick").unlink()
        await holds(is_(engine, State.READY))
        assert engine.status.restarts == 0


async def test_an_engine_that_hangs_is_killed_and_restarted(folder: Path) -> None:
    async with kept(toy(folder, "family", "deaf")) as engine:
        await holds(is_(engine, State.READY))
        family = pids(folder)
        (folder / "hang").touch()
        await holds(is_(engine, State.UNHEALTHY))
        await holds(is_(engine, State.RESTARTING))
        assert "hangs" in engine.status.reason
        assert not any(alive(pid) for pid in family.values())
        (folder / "hang").unlink()
        await holds(is_(engine, State.READY))
        assert engine.status.restarts == 1


async def test_a_draining_engine_stays_so_whatever_its_health_says(folder: Path) -> None:
    async with kept(toy(folder)) as engine:
        await holds(is_(engine, State.READY))
        engine.drain()
        (folder / "sick").touch()
        os.kill(pids(folder)["engine"], signal.SIGKILL)
        await holds(lambda: engine.status.restarts == 1)
        assert is_(engine, State.DRAINING)()
    assert is_(engine, State.STOPPED)()


async def test_the_engines_lines_go_to_the_log_under_the_models_name(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with kept(toy(folder)) as engine:
        await holds(is_(engine, State.READY))
        await holds(lambda: "toy | toy engine ready" in caplog.messages)
        assert "toy: READY" in caplog.messages


async def test_a_progress_bar_and_a_line_without_end_are_kept_within_bounds(folder: Path) -> None:
    script = "print(*('%d%%' % i for i in range(1000)), sep='\\r', end='\\r' + 'x' * 100_000); exit(1)"
    async with kept(replace(toy(folder), argv=(sys.executable, "-S", "-c", script))) as engine:
        await holds(is_(engine, State.FAILED))
        lines = engine.status.reason.splitlines()[1:]
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 5000


def test_an_engine_is_kept_under_uvloop_too(folder: Path) -> None:
    async def scenario() -> None:
        async with kept(toy(folder, "family")) as engine:
            await holds(is_(engine, State.READY))
            family = pids(folder)
            (folder / "engine.pid").unlink()
            os.kill(family["engine"], signal.SIGKILL)
            await holds(is_(engine, State.READY, 1))
            assert not any(alive(pid) for pid in family.values())
            family = pids(folder)
        assert not any(alive(pid) for pid in family.values())

    uvloop.run(scenario())


@asynccontextmanager
async def server(path: Path, status: int) -> AsyncIterator[None]:
    """An HTTP server that gives every request the same answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    listening = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        listening.close()
        path.unlink()


async def test_a_remote_endpoint_is_unhealthy_while_it_is_down_and_ready_while_it_is_up(folder: Path) -> None:
    endpoint = RemoteEndpoint("r-1-0", f"unix:{folder / 's'}", "remote", asyncio.Event(), HASTY)
    life = asyncio.create_task(endpoint.run())
    await holds(is_(endpoint, State.UNHEALTHY))
    assert endpoint.status.settled
    assert "cannot be reached" in endpoint.status.reason
    async with server(folder / "s", 404):
        await holds(is_(endpoint, State.READY))
        assert endpoint.status.reason == ""
    await holds(is_(endpoint, State.UNHEALTHY))
    async with server(folder / "s", 401):
        await holds(is_(endpoint, State.READY))
    async with server(folder / "s", 502):
        await holds(is_(endpoint, State.UNHEALTHY))
        await holds(lambda: endpoint.status.reason == "/health answered 502")
    life.cancel()
    await asyncio.wait((life,))
    assert is_(endpoint, State.STOPPED)()
    assert endpoint.status.restarts == 0


async def test_a_remote_endpoint_with_a_route_of_readiness_is_ready_when_that_says_so(folder: Path) -> None:
    endpoint = RemoteEndpoint(
        "r-1-0", f"unix:{folder / 's'}", "remote", asyncio.Event(), HASTY, readiness="/v2/health/ready"
    )
    life = asyncio.create_task(endpoint.run())
    async with server(folder / "s", 400):
        await holds(lambda: endpoint.status.reason == "/v2/health/ready answered 400")
    async with server(folder / "s", 200):
        await holds(is_(endpoint, State.READY))
    life.cancel()
    await asyncio.wait((life,))
