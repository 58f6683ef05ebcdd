"""Prefix-heavy conversations over four simulated engines: how much each policy finds cached, and how long is waited.

    python -m tests.bench.cache [--sessions 200] [--turns 8]

Every session has a common system prompt and turns of its own, which begin some time after the answer before. `ideal`
is a sticky assignment: the policy `session`, with an explicit key and without a bound. Exits with 1 when `prefix` finds
less than 0.9 of what the ideal finds, or when its p99 wait is longer than that of `round_robin`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import Tritium, echo_repository, serving

_POLICIES = {
    "prefix": {"routing_policy": "prefix"},
    "round_robin": {"routing_policy": "round_robin"},
    "ideal": {"routing_policy": "session", "load_factor": "1000"},
}
_ENGINE = {
    "prefix_cache_tokens": 72_000,  # a third more than a fair share of all conversations at their end
    "prefill_us_per_token": 40,
    "itl_ms": 4,
    "slots": 64,
    "max_model_len": 8192,
}
_SYSTEM_WORDS, _USER_WORDS, _ANSWER_TOKENS = 256, 96, 32
_THINK_SECONDS = 0.8


@dataclass
class Result:
    """What one policy came to."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.cached_tokens / self.prompt_tokens

    def wait_ms(self, percent: int) -> float:
        return 1000 * statistics.quantiles(self.waits, n=100)[percent - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    models = {name: {**_ENGINE, "config": _config(parameters)} for name, parameters in _POLICIES.items()}
    results = {}
    with tempfile.TemporaryDirectory() as folder, serving(echo_repository(Path(folder) / "models", models)) as tritium:
        for name in _POLICIES:
            results[name] = asyncio.run(_converse(tritium, name, options.sessions, options.turns))
    print(f"{'':<14}{'cached':>8}{'wait p50':>12}{'p99':>12}")
    for name, result in results.items():
        print(f"{name:<14}{result.share:>8.3f}{result.wait_ms(50):>9.1f} ms{result.wait_ms(99):>9.1f} ms")
    prefix, ideal, round_robin = results["prefix"], results["ideal"], results["round_robin"]
    found, wait = prefix.share / ideal.share, prefix.wait_ms(99) / round_robin.wait_ms(99)
    print(
        f"prefix finds {found:.3f} of the ideal (at least 0.9); its p99 wait is {wait:.2f} of round robin's (at most 1)"
    )
    return int(found < 0.9 or wait > 1)


def _config(parameters: dict[str, str]) -> str:
    lines = ["instance_group { count: 4 }"]
    lines += [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    return "\n".join(lines)


async def _converse(tritium: Tritium, model: str, sessions: int, turns: int) -> Result:
    result = Result()
    system = _words(random.Random(0), _SYSTEM_WORDS)
    async with asyncio.TaskGroup() as group:
        for number in range(1, sessions + 1):
            group.create_task(_session(tritium.http_port, model, system, number, turns, result))
    return result


async def _session(port: int, model: str, system: str, number: int, turns: int, result: Result) -> None:
    # The same conversations and pauses under every policy.
    chance = random.Random(number)
    messages = [{"role": "system", "content": system}]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        for _ in range(turns):
            await asyncio.sleep(2 * _THINK_SECONDS * chance.random())
            messages.append({"role": "user", "content": _words(chance, _USER_WORDS)})
            body = {"model": model, "messages": messages, "max_tokens": _ANSWER_TOKENS, "prompt_cache_key": str(number)}
            usage, answer, wait = await _ask(reader, writer, body)
            messages.append({"role": "assistant", "content": answer})
            result.prompt_tokens += usage["prompt_tokens"]
            result.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
            result.waits.append(wait)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any]
) -> tuple[dict[str, Any], str, float]:
    """Usage, text, and the seconds until the text began."""
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(data)}\r\n\r\n"
    started = time.monotonic()
    writer.write(head.encode() + data)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    text, wait, usage, rest = "", 0.0, None, b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        *events, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                chunk = json.loads(event[6:])
                usage = chunk.get("usage") or usage
                text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        if text and not wait:
            wait = time.monotonic() - started
    await reader.readexactly(2)
    assert usage is not None, "the stream broke off"
    return usage, text, wait


def _words(chance: random.Random, count: int) -> str:
    return " ".join(f"{chance.randrange(16**5):05x}" for _ in range(count))


if __name__ == "__main__":
    sys.exit(main())
