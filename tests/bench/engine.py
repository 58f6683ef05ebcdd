"""A real engine behind: tokens a second through Tritium against directly, paired runs, medians.

    python -m tests.bench.engine SERVER_URL MODEL ENGINE_SOCKET [--streams 16] [--pairs 5] [--tokens 128]

SERVER_URL is a running Tritium, ENGINE_SOCKET the Unix socket of the engine behind it (the log names it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

import httpx


async def _rate(client: httpx.AsyncClient, options: argparse.Namespace) -> float:
    """Completion tokens a second over all streams, by the usage that the engine reports."""
    started = time.monotonic()
    tokens = await asyncio.gather(*(_stream(client, options, number) for number in range(options.streams)))
    return sum(tokens) / (time.monotonic() - started)


async def _stream(client: httpx.AsyncClient, options: argparse.Namespace, number: int) -> int:
    body = {
        "model": options.model,
        "messages": [{"role": "user", "content": f"Count from {number} upwards."}],
        "max_tokens": options.tokens,
        "min_tokens": options.tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    completion_tokens = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if '"usage"' in line:
                completion_tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    return completion_tokens


async def _main(options: argparse.Namespace) -> None:
    direct_transport = httpx.AsyncHTTPTransport(uds=options.engine_socket)
    async with (
        httpx.AsyncClient(base_url="http://engine", transport=direct_transport, timeout=600) as direct,
        httpx.AsyncClient(base_url=options.server_url, timeout=600) as through,
    ):
        for client in (direct, through):
            await _rate(client, options)
        ratios = []
        for pair in range(options.pairs):
            order = (direct, through) if pair % 2 else (through, direct)
            rates = {id(client): await _rate(client, options) for client in order}
            ratios.append(rates[id(through)] / rates[id(direct)])
            print(
                f"direct {rates[id(direct)]:.1f} tok/s, through {rates[id(through)]:.1f} tok/s, ratio {ratios[-1]:.3f}"
            )
    print(f"median ratio of {options.pairs} pairs: {statistics.median(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server_url")
    parser.add_argument("model")
    parser.add_argument("engine_socket")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
