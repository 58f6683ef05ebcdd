"""What `--workers 2` carries against one server process, each process held to the same share of a core.

    python -m tests.bench.workers [--share 0.3] [--stream]

The engine and the load need cores too. Where the cpu controller of cgroup v1 can be written (as root), each server
process gets `share` of a core and the rates are compared as they are. Elsewhere only the CPU time a request is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.processes import BUILD, build, cpu_seconds, get, running, server_processes, wait_until_answers

_ENGINE_PORT, _PORT, _METRICS_PORT = 9710, 9711, 9712
_CONTROLLER = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    build()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with running([f"{BUILD}/fake_engine", "--port", str(_ENGINE_PORT)]):
        for _ in range(options.repeats):
            for workers, measured in rates.items():
                measured.append(_measure(workers, options.share, stream=options.stream))
    one, two = (statistics.median(measured) for measured in rates.values())
    print(f"one process {one:.0f} requests/s, two {two:.0f}: {two / one:.2f} x")


def _measure(workers: int, share: float, *, stream: bool) -> float:
    serve = Path(__file__).with_name("serve.sh")
    with tempfile.TemporaryDirectory() as folder:
        argv = [str(serve), str(_PORT), str(_METRICS_PORT), f"http://127.0.0.1:{_ENGINE_PORT}", folder]
        with running([*argv, "--workers", str(workers)]) as tritium:
            wait_until_answers(f"http://127.0.0.1:{_PORT}/health/ready")
            get(f"http://127.0.0.1:{_ENGINE_PORT}/fake/config?itl_us=0&ttft_us=0")
            servers = server_processes(tritium.pid)
            with _held(servers, share) as held:
                before = [cpu_seconds(pid) for pid in servers]
                result = _load(stream=stream)
                used = [cpu_seconds(pid) - start for pid, start in zip(servers, before, strict=True)]
    rate: float = result["ok"] / result["elapsed"]
    shares = ", ".join(f"{seconds / result['elapsed']:.2f}" for seconds in used)
    print(
        f"workers {workers}: {rate:.0f} requests/s, {1e6 * sum(used) / result['ok']:.1f} us CPU a request, "
        f"cores used {shares}{'' if held else ' (not held to a share)'}",
        flush=True,
    )
    return rate


def _load(*, stream: bool) -> dict[str, float]:
    argv = [f"{BUILD}/loadgen", "--port", str(_PORT), "--conc", "64", "--stream", str(int(stream)), "--tokens", "16"]
    argv += ["--secs", "5", "--ramp-ms", "0", "--max-secs", "30", "--model", "fake-model"]
    argv += ["--path", "/v1/chat/completions", "--check", "1"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextlib.contextmanager
def _held(pids: list[int], share: float) -> Iterator[bool]:
    """Hold each process to `share` of a core; whether that could be done."""
    groups = [_CONTROLLER / f"tritium-bench-{os.getpid()}-{pid}" for pid in pids]
    try:
        for group, pid in zip(groups, pids, strict=True):
            group.mkdir()
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(_PERIOD_US * share)))
            (group / "cgroup.procs").write_text(str(pid))
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        for group, pid in zip(groups, pids, strict=True):
            with contextlib.suppress(OSError):
                (_CONTROLLER / "cgroup.procs").write_text(str(pid))
                group.rmdir()


if __name__ == "__main__":
    main()
