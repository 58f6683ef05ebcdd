"""Conversations over several engines and server processes: each turn finds what those before it left in a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import Tritium, echo_repository, serving

BLOCK_TOKENS = 16
SYSTEM = "Follow the rules. " * 100

pytestmark = pytest.mark.slow


def routed(folder: Path, policy: str) -> Path:
    config = f"""
instance_group {{ count: 4 }}
parameters {{ key: "routing_policy" value {{ string_value: "{policy}" }} }}
"""
    return echo_repository(folder, {"echo": {"config": config, "prefix_cache_tokens": 100_000}})


async def ask(tritium: Tritium, user: int, messages: list[dict[str, str]]) -> dict[str, Any]:
    """An answer over a connection of its own, which any of the server processes may get."""
    async with httpx.AsyncClient(base_url=tritium.url, timeout=30.0) as client:
        body = {"model": "echo", "messages": messages}
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-session-id": f"user {user}"})
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


async def missed(tritium: Tritium, user: int) -> list[int]:
    """How many tokens of the turns before it each turn but the first did not find."""
    messages = [{"role": "system", "content": SYSTEM}]
    found, before = [], 0
    for turn in range(5):
        messages.append({"role": "user", "content": f"I am user {user} and ask {turn} " * 10})
        answer = await ask(tritium, user, messages)
        usage = answer["usage"]
        found.append(before - usage["prompt_tokens_details"]["cached_tokens"])
        before = usage["total_tokens"]
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    return found[1:]


@pytest.mark.parametrize("policy", ["prefix", "session"])
async def test_every_turn_finds_the_turns_before_it_whatever_process_serves_it(tmp_path: Path, policy: str) -> None:
    with serving(routed(tmp_path / "models", policy), "--workers", "2") as tritium:
        # One after the other: no replica is over its bound.
        assert max([tokens for user in range(12) for tokens in await missed(tritium, user)]) < BLOCK_TOKENS
