"""What the benchmark commands share: start and stop a process, read its tree's CPU time and memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

BENCH = Path(os.environ.get("BENCH_DIR") or Path(__file__).resolve().parents[3] / "shared" / "bench")
BUILD = Path(os.environ.get("BENCH_BUILD") or "/tmp/gateway-bench")  # where the benchmark builds its tools
_TICKS = os.sysconf("SC_CLK_TCK")


def build() -> None:
    """Compile the synthetic engine and the load generator."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("fake_engine", "loadgen"):
        if not (BUILD / name).exists():
            command = ["cc", "-O2", "-o", str(BUILD / name), str(BENCH / f"{name}.c"), "-lm"]
            subprocess.run(command, check=True)  # our own arguments


@contextlib.contextmanager
def running(argv: Sequence[str], *, core: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, pinned to `core`, its whole session ended when the block does."""
    pinned = [*(("taskset", "-c", str(core)) if core is not None else ()), *argv]
    process = subprocess.Popen(  # our own arguments
        pinned, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            for pid in session(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # loopback
        text: str = answer.read().decode()
    return text


def wait_until_answers(url: str, seconds: float = 120.0) -> None:
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            get(url)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)
        else:
            return


def session(leader: int) -> list[int]:
    """The processes of a session."""
    return [pid for pid, fields in _processes() if int(fields[3]) == leader]


def cpu_seconds(pid: int) -> float:
    """User and system time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def server_processes(leader: int) -> list[int]:
    """The server processes among a Tritium's session."""
    found = []
    for pid in session(leader):
        with contextlib.suppress(OSError):
            if b"gateway.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
