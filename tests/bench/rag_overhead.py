"""What a pipeline costs beside its steps: `python -m tests.bench.rag_overhead`.

The same chat is asked of a pipeline over echo engines, whole, and its own timings are taken from the time that the
client waited. What is left is the gateway, the turn between its steps, and the client.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.clients.rag_served import serving_rag

QUESTION = {"messages": [{"role": "user", "content": "pears are green [1], boats are not [2]"}]}


def overheads(client: httpx.Client, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds that are no step's, and those of a chat with the generator alone."""
    left, alone = [], []
    for number in range(count + count // 10):
        began = time.perf_counter()
        answer = client.post("/v1/chat/completions", json={"model": "fruit", "include_timings": True, **QUESTION})
        waited = time.perf_counter() - began
        timings = json.loads(answer.content)["rag"]["timings"]
        # The question is embedded while its words are searched for: `retrieve` is the longer of both.
        steps = sum(seconds for step, seconds in timings.items() if step != "embed")
        began = time.perf_counter()
        client.post("/v1/chat/completions", json={"model": "echo", **QUESTION}).raise_for_status()
        if number >= count // 10:
            left.append(1000 * (waited - steps))
            alone.append(1000 * (time.perf_counter() - began))
    return left, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    count = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder, serving_rag(Path(folder)) as served:
        headers = {"authorization": "Bearer alice-key"}
        with httpx.Client(base_url=served.server.url, headers=headers, timeout=60) as client:
            left, alone = overheads(client, count)
    for name, values in (("beside the steps", left), ("the generator alone", alone)):
        at = statistics.quantiles(values, n=100)
        print(f"{name}: p50 {at[49]:.2f} ms, p99 {at[98]:.2f} ms ({count} requests)")


if __name__ == "__main__":
    main()
