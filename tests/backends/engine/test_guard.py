"""The guard: whatever is killed, nothing of the engine is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engine import guard
from tests.processes import alive, holds, parent, pids

TOY = str(Path(__file__).with_name("toy.py"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")  # short: a Unix socket's path has at most 107 bytes


@asynccontextmanager
async def guarded(
    folder: Path, *faults: str, grace: float = 5.0
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, int]]]:
    """The guard's process and the pids that the toy engine wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", guard.__file__, "--grace", str(grace), "--"),
        *(sys.executable, "-I", "-S", TOY, str(folder / "s"), str(folder), *faults),
        stdout=subprocess.DEVNULL,
    )
    try:
        await holds((folder / "engine.pid").exists)
        yield process, pids(folder)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGQUIT)
        await process.wait()


async def none_is_left(family: dict[str, int], seconds: float = 5.0) -> None:
    assert family
    await holds(lambda: not any(alive(pid) for pid in family.values()), seconds)


async def run(*argv: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", guard.__file__, *argv, stderr=subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stderr


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
async def test_the_exit_status_is_the_engines(script: str, status: int) -> None:
    assert (await run("--", "sh", "-c", script))[0] == status


async def test_a_missing_executable_is_named() -> None:
    assert await run("--", "/no/such/engine") == (127, b"cannot start /no/such/engine: No such file or directory\n")


@pytest.mark.parametrize("argv", [(), ("--",), ("--nonsense", "--", "true"), ("true",)])
async def test_a_wrong_command_line_is_refused(argv: tuple[str, ...]) -> None:
    status, stderr = await run(*argv)
    assert status == 2
    assert stderr.startswith(b"usage:")


async def test_the_engine_has_a_process_group_of_its_own(folder: Path) -> None:
    async with guarded(folder) as (process, family):
        assert os.getpgid(family["engine"]) == family["engine"] != os.getpgid(process.pid)


async def test_kill_9_of_the_engine_leaves_no_orphan(folder: Path) -> None:
    async with guarded(folder, "family") as (process, family):
        os.kill(family["engine"], signal.SIGKILL)
        assert await process.wait() == 128 + signal.SIGKILL
        assert len(family) == 3
        assert not any(alive(pid) for pid in family.values())


async def test_an_orphan_of_the_engines_own_making_goes_with_it(folder: Path) -> None:
    async with guarded(folder, "family", "orphan") as (process, family):
        await holds(lambda: not alive(family["child"]))
        assert alive(family["grandchild"])
        os.kill(family["engine"], signal.SIGTERM)
        await process.wait()
        assert not alive(family["grandchild"])


@pytest.mark.parametrize("half", ["outer", "inner"])
async def test_kill_9_of_either_half_of_the_guard_leaves_no_orphan(folder: Path, half: str) -> None:
    async with guarded(folder, "family", "deaf") as (process, family):
        inner = parent(family["engine"])
        assert parent(inner) == process.pid
        os.kill(process.pid if half == "outer" else inner, signal.SIGKILL)
        await none_is_left({**family, "inner": inner, "outer": process.pid})


async def test_sigterm_reaches_the_engine_and_then_its_family_is_killed(folder: Path) -> None:
    async with guarded(folder, "family") as (process, family):
        process.terminate()
        assert await process.wait() == 128 + signal.SIGTERM
        assert not any(alive(pid) for pid in family.values())


async def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(folder: Path) -> None:
    async with guarded(folder, "family", "deaf", grace=0.3) as (process, family):
        process.terminate()
        assert await process.wait() == 128 + signal.SIGKILL
        assert not any(alive(pid) for pid in family.values())


async def test_sigquit_kills_without_grace(folder: Path) -> None:
    async with guarded(folder, "family", "deaf", grace=60.0) as (process, family):
        process.send_signal(signal.SIGQUIT)
        async with asyncio.timeout(5):
            assert await process.wait() == 128 + signal.SIGKILL
        assert not any(alive(pid) for pid in family.values())


async def test_kill_9_of_the_supervisor_leaves_no_orphan(folder: Path) -> None:
    # It holds the lifeline's other end, as the supervisor does, and then hangs.
    script = (
        "import os, subprocess, sys, time; lifeline, held = os.pipe(); "
        "subprocess.Popen([*sys.argv[1:4], '--lifeline-fd', str(lifeline), *sys.argv[4:]], pass_fds=[lifeline]); "
        "os.close(lifeline); time.sleep(600)"
    )
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", script, sys.executable, "-S", guard.__file__),
        *("--grace", "0.3", "--", sys.executable, "-I", "-S", TOY, str(folder / "s"), str(folder), "family", "deaf"),
        stdout=subprocess.DEVNULL,
    )
    try:
        await holds((folder / "engine.pid").exists)
        family = pids(folder)
        family["inner"] = parent(family["engine"])
        family["outer"] = parent(family["inner"])
    finally:
        supervisor.kill()
        await supervisor.wait()
    await none_is_left(family)


async def test_exec_becomes_the_command_which_dies_with_its_parent() -> None:
    script = (
        "import subprocess, sys, time; child = subprocess.Popen(sys.argv[1:]); print(child.pid, flush=True); "
        "time.sleep(600)"
    )
    doomed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", script, sys.executable, "-I", "-S", guard.__file__, "--exec"),
        *("--", "sleep", "600"),
        stdout=subprocess.PIPE,
    )
    assert doomed.stdout is not None
    try:
        child = int(await doomed.stdout.readline())
        await holds(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    finally:
        doomed.kill()
        await doomed.communicate()
    await none_is_left({"child": child})


async def test_shared_memory_of_an_engine_that_was_killed_is_removed(tmp_path: Path) -> None:
    name = tmp_path / "name"
    script = (
        "import os, pathlib, signal\n"
        "from multiprocessing import shared_memory\n"
        "memory = shared_memory.SharedMemory(create=True, size=4096)\n"
        f"pathlib.Path({str(name)!r}).write_text(memory.name)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    status, _ = await run("--", sys.executable, "-c", script)
    assert status == 137
    assert not (Path("/dev/shm") / name.read_text().lstrip("/")).exists()
