"""Inference beside real Triton: rate a core of CPU, median latency, by HTTP and gRPC, on the same Python models.

    python -m tests.bench.infer [--triton VENV] [--seconds 3] [--repeats 3] [--callers 1,4,32] [--models simple]

Both serve `infer_models/`, one after the other within each repeat, in alternating order; the load is on the first core.
VENV holds `nvidia-pytriton` (see triton.sh, which makes it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.bench.processes import cpu_seconds, running, session, wait_until_answers

HERE = Path(__file__).parent
ELEMENTS = {"simple": 16, "identity_fp32": 16}
_PORTS = {"tritium": 21000, "triton": 21010}


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    models = str(HERE / "infer_models")
    http, grpc, metrics = (str(_PORTS["triton"] + number) for number in range(3))
    ours = [str(_PORTS["tritium"] + number) for number in range(3)]
    return {
        "triton": [str(HERE / "triton.sh"), options.triton, models, http, grpc, metrics],
        "tritium": [
            *(str(Path(sys.executable).parent / "tritium"), "serve", "--model-repository", models),
            *("--http-port", ours[0], "--grpc-port", ours[1], "--metrics-port", ours[2], "--no-access-log"),
        ],
    }


def measure(leader: int, protocol: str, port: int, model: str, callers: int, seconds: float) -> dict[str, float]:
    """One load on one server: its report, with the server's CPU microseconds a request."""
    load = subprocess.Popen(
        [
            *("taskset", "-c", "0", sys.executable, "-m", "tests.bench.infer_load"),
            *(protocol, str(port), model, str(ELEMENTS[model]), str(callers), str(seconds)),
        ],
        stdout=subprocess.PIPE,
    )
    before, began = cpu(leader), time.monotonic()
    output, _ = load.communicate()
    spent, lasted = cpu(leader) - before, time.monotonic() - began
    report: dict[str, float] = json.loads(output)
    rate = report["requests"] / report["seconds"]
    # The server works while the load warms up as well: CPU is set against the time that it was asked in all.
    asked_seconds = min(lasted, seconds + 0.5)
    report["cpu_us"] = spent / (rate * asked_seconds) * 1e6
    report["rate"] = rate
    return report


def cpu(leader: int) -> float:
    return sum(cpu_seconds(pid) for pid in session(leader))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triton", default="/tmp/gateway-bench/venvs/triton")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--callers", default="1,4,32")
    parser.add_argument("--models", default="simple,identity_fp32")
    parser.add_argument("--protocols", default="http,grpc")
    options = parser.parse_args(arguments)
    found: dict[tuple[str, str, int], dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for repeat in range(options.repeats):
        servers = commands(options)
        for name in servers if repeat % 2 else reversed(servers):
            with running(servers[name]) as server:
                wait_until_answers(f"http://127.0.0.1:{_PORTS[name]}/v2/health/ready")
                for protocol in options.protocols.split(","):
                    port = _PORTS[name] + (protocol == "grpc")
                    for model in options.models.split(","):
                        for callers in map(int, options.callers.split(",")):
                            report = measure(server.pid, protocol, port, model, callers, options.seconds)
                            found[protocol, model, callers][name].append(report)
    print(f"{'':30s} {'rate/s':>16s} {'CPU us/request':>18s} {'rate a core':>12s} {'p50 us':>16s} {'p50':>6s}")
    print(f"{'':30s} {'ours / Triton':>16s} {'ours / Triton':>18s} {'ratio':>12s} {'ours / Triton':>16s} {'ratio':>6s}")
    for (protocol, model, callers), by_name in found.items():
        median = {
            key: {name: statistics.median(run[key] for run in runs) for name, runs in by_name.items()}
            for key in ("rate", "cpu_us", "p50_us", "failures")
        }
        rate, cpu_us, p50 = median["rate"], median["cpu_us"], median["p50_us"]
        failures = sum(run["failures"] for runs in by_name.values() for run in runs)
        print(
            f"{protocol:5s} {model:15s} c={callers:<5d} {rate['tritium']:7.0f} / {rate['triton']:6.0f} "
            f"{cpu_us['tritium']:8.0f} / {cpu_us['triton']:7.0f} {cpu_us['triton'] / cpu_us['tritium']:12.2f} "
            f"{p50['tritium']:7.0f} / {p50['triton']:6.0f} {p50['tritium'] / p50['triton']:6.2f}"
            + (f"  FAILURES {failures:.0f}" if failures else "")
        )


if __name__ == "__main__":
    main()
