"""CPU time of a routing decision: every policy, prompts of 1 to 64 KB, four replicas with work and loads of their own.

    python -m tests.bench.routing [--replicas 4] [--rounds 5] [--decisions 1000]

Each decision is of another conversation, half of them new ones and half a second turn; the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice

from backends.engine.policies import policy
from backends.engine.replica import Replica
from backends.engine.routing import POLICIES, Routing
from backends.engine.upstream import Pool
from backends.model import Endpoint, Endpoints, Load, OpenAIRequest, State

_SIZES_KB = (1, 4, 16, 64)
_TEXT = ('the quick brown fox {jumps} over the "lazy" dog, ', "and user and messages have to be told apart. ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=1000)
    options = parser.parse_args()
    replicas = _replicas(options.replicas)
    requests = {size: _conversations(size, options.decisions) for size in _SIZES_KB}
    print(f"{'CPU us a decision':<22}" + "".join(f"{size:>6} KB" for size in _SIZES_KB))
    for name in POLICIES:
        figures = [_measure(name, replicas, requests[size], options.rounds) for size in _SIZES_KB]
        print(f"{name:<22}" + "".join(f"{figure:>9.2f}" for figure in figures))


def _measure(name: str, replicas: list[Replica], requests: Sequence[OpenAIRequest], rounds: int) -> float:
    measured = []
    for _ in range(rounds):
        chosen = policy(Routing(routing_policy=name))
        started = time.process_time()
        for request in requests:
            chosen.pick(replicas, request)
        measured.append(1e6 * (time.process_time() - started) / len(requests))
    return statistics.median(measured)


def _replicas(count: int) -> list[Replica]:
    found = [Endpoint(f"bench.{number}", f"http://127.0.0.1:{9800 + number}", State.READY) for number in range(count)]
    loads = {endpoint.id: Load(number, 3 * number, 0.1 * number) for number, endpoint in enumerate(found)}
    endpoints = Endpoints(tuple(found), loads)
    replicas = [Replica(endpoint, Pool(endpoint.address, "bench"), endpoints) for endpoint in found]
    for number, replica in enumerate(replicas):
        replica.in_flight = number
        replica.tokens_in_flight = 900 * number
    return replicas


def _conversations(size_kb: int, count: int) -> list[OpenAIRequest]:
    """First and second turns in turn; a system prompt that all share makes up a half."""
    requests = []
    for number in range(count // 2):
        messages = [
            {"role": "system", "content": _words(512 * size_kb)},
            {"role": "user", "content": f"I am {number}. " + _words(100 * size_kb)},
        ]
        requests.append(_request(messages))
        messages.append({"role": "assistant", "content": _words(300 * size_kb)})
        messages.append({"role": "user", "content": "go on"})
        requests.append(_request(messages))
    return requests


def _request(messages: list[dict[str, str]]) -> OpenAIRequest:
    body = json.dumps({"model": "bench", "messages": messages, "stream": True, "user": messages[1]["content"][:12]})
    data = body.encode()
    return OpenAIRequest(
        "/v1/chat/completions", data, "bench", stream=True, prompt_tokens=len(data) // 4, output_tokens=200
    )


def _words(length: int) -> str:
    return "".join(islice(cycle(_TEXT), length // 40 + 1))[:length]


if __name__ == "__main__":
    main()
