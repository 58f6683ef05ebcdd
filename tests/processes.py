"""Looking at processes from outside, and waiting for them while the event loop runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.waiting import eventually_async


async def holds(claim: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until `claim()` is true, with the event loop running; fails after `seconds`."""

    async def probe() -> bool:
        return claim()

    await eventually_async(probe, seconds=seconds)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return _stat(pid)[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def pids(folder: Path) -> dict[str, int]:
    """The pids that processes wrote into `folder`, by the names of the files."""
    return {file.stem: int(file.read_text()) for file in folder.glob("*.pid")}


def _stat(pid: int) -> list[str]:
    """State, parent and so on: proc_pid_stat(5). The name before them may hold parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def descendants(pid: int) -> list[int]:
    """Every process below this one, nearest first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                children.setdefault(parent(int(folder.name)), []).append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = list(children.get(pid, ()))
    for each in found:
        found.extend(children.get(each, ()))
    return found


def command_line(pid: int) -> str:
    """The command and its arguments, empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
