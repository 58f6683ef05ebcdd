"""A worker among the processes that are kept: it tells its configuration, and that it has failed for good."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engine.command import Command
from backends.engine.process import EngineProcess
from backends.engine.watch import FailedForGoodError, Patience
from backends.model import State
from tests.processes import holds

pytestmark = pytest.mark.slow  # whole processes are started and stopped

TOY = str(Path(__file__).with_name("toy.py"))
HASTY = Patience(interval_seconds=0.05, timeout_seconds=0.3, first_delay_seconds=0.02, grace_seconds=0.5)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("w")  # short: a Unix socket's path has at most 107 bytes


@asynccontextmanager
async def kept(folder: Path, judge: Callable[[str], None] = lambda _: None) -> AsyncIterator[EngineProcess]:
    argv = (sys.executable, "-I", "-S", TOY, str(folder / "s"), str(folder))
    command = Command(argv, f"unix:{folder / 's'}", start_timeout_seconds=20, config="/config")
    worker = EngineProcess("toy-1-0", command, "toy", asyncio.Event(), HASTY, judge)
    life = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        life.cancel()
        await asyncio.wait((life,))


async def test_a_worker_is_ready_once_it_has_told_its_configuration(folder: Path) -> None:
    async with kept(folder) as worker:
        await holds((folder / "engine.pid").exists)
        await asyncio.sleep(0.2)
        assert worker.status.state is State.STARTING
        (folder / "config").write_text('{"name":"toy"}')
        await holds(lambda: worker.status.state is State.READY)
        assert worker.status.document == '{"name":"toy"}'


async def test_a_worker_that_cannot_load_its_model_fails_for_that_reason_alone_and_is_not_started_again(
    folder: Path,
) -> None:
    (folder / "failure").write_text(json.dumps({"error": "Internal: RuntimeError: no\n\nAt:\n  model.py(3)\n"}))
    async with kept(folder) as worker:
        await holds(lambda: worker.status.state is State.FAILED)
        assert worker.status.reason == "Internal: RuntimeError: no\n\nAt:\n  model.py(3)\n"
        assert worker.status.restarts == 0
        assert worker.pid is None


async def test_an_answer_of_500_that_gives_no_reason_is_asked_again(folder: Path) -> None:
    (folder / "failure").write_text("oops")
    (folder / "config").write_text("{}")
    async with kept(folder) as worker:
        await holds((folder / "engine.pid").exists)
        await asyncio.sleep(0.1)
        (folder / "failure").unlink()
        await holds(lambda: worker.status.state is State.READY)


async def test_a_worker_whose_configuration_is_refused_fails_for_that_reason(folder: Path) -> None:
    def refuse(document: str) -> None:
        raise FailedForGoodError(f"Invalid argument: {document}")

    (folder / "config").write_text("none such")
    async with kept(folder, refuse) as worker:
        await holds(lambda: worker.status.state is State.FAILED)
        assert worker.status.reason == "Invalid argument: none such"
