"""1,000 streams at once on one server process, three rounds: failures and memory.

python -m tests.bench.soak [--streams 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.processes import BUILD, build, get, rss_mib, running, server_processes, wait_until_answers

_ENGINE_PORT, _PORT, _METRICS_PORT = 9700, 9701, 9702


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    build()
    serve = Path(__file__).with_name("serve.sh")
    engine_url = f"http://127.0.0.1:{_ENGINE_PORT}"
    with tempfile.TemporaryDirectory() as folder:
        argv = [str(serve), str(_PORT), str(_METRICS_PORT), engine_url, folder]
        with running([f"{BUILD}/fake_engine", "--port", str(_ENGINE_PORT)], core=0), running(argv, core=1) as tritium:
            wait_until_answers(f"http://127.0.0.1:{_PORT}/health/ready")
            get(f"{engine_url}/fake/config?itl_us=50000&ttft_us=0")
            (server,) = server_processes(tritium.pid)
            failed, settled = 0, []
            for number in range(options.rounds + 1):  # the first round warms allocators and pools up
                result = _round(options.streams)
                peak = rss_mib(server)
                time.sleep(6)  # idle upstream connections close after 4 s
                settled.append(rss_mib(server))
                errors = sum(result["err"].values()) + result["unfinished"]
                failed += errors
                what = "warm-up" if number == 0 else f"round {number}"
                print(
                    f"{what}: {result['ok']} streams whole, {errors} failed, "
                    f"RSS at the end of the load {peak:.1f} MiB, after it {settled[-1]:.1f} MiB, "
                    f"TTFT p50 {result['ttft_p50'] / 1000:.1f} ms",
                    flush=True,
                )
            change = 100 * (settled[-1] / settled[0] - 1)
            print(f"failed {failed}; memory after the last round against after the warm-up: {change:+.1f} %")
            return int(failed > 0)


def _round(streams: int) -> dict[str, Any]:
    argv = ["taskset", "-c", "0", f"{BUILD}/loadgen", "--port", str(_PORT), "--conc", str(streams), "--stream", "1"]
    argv += ["--tokens", "128", "--secs", "8", "--ramp-ms", "2000", "--max-secs", "60", "--model", "fake-model"]
    argv += ["--path", "/v1/chat/completions", "--check", "1"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)  # our own arguments
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(main())
