"""The simulated prefix cache: what it finds, forgets and reports, and the time that it saves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from backends.simulator.prefix_cache import BLOCK_TOKENS, PrefixCache, blocks
from tests.backends.simulator.asking import chat, events, post
from tests.engines import EchoEngine

CHAT = "/v1/chat/completions"


def words(count: int, first: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(first, first + count))


async def cached(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT) -> int:
    details = (await post(client, path, body))["usage"]["prompt_tokens_details"]
    return int(details["cached_tokens"])


def metric(text: str, name: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    return float(line.rpartition(" ")[2])


@given(st.lists(st.sampled_from("ab"), max_size=80), st.lists(st.sampled_from("ab"), max_size=80))
def test_what_is_found_is_the_common_beginning_in_full_blocks(one: list[str], other: list[str]) -> None:
    cache = PrefixCache(1024)
    cache.keep(blocks(one))
    common = next((place for place in range(len(other)) if one[place : place + 1] != [other[place]]), len(other))
    usable = min(common, max(0, len(other) - 1))
    assert cache.cached_tokens(blocks(other), len(other)) == usable // BLOCK_TOKENS * BLOCK_TOKENS


def test_the_least_recently_used_prompt_leaves_first_and_its_end_before_its_beginning() -> None:
    cache = PrefixCache(4 * BLOCK_TOKENS)
    one, other = ([f"{name}{number}" for number in range(3 * BLOCK_TOKENS)] for name in "xy")
    cache.keep(blocks(one))
    cache.keep(blocks(other))
    assert cache.cached_tokens(blocks(one), 1000) == BLOCK_TOKENS
    assert cache.cached_tokens(blocks(other), 1000) == 3 * BLOCK_TOKENS


async def test_without_a_cache_usage_says_nothing_of_one(client: httpx.AsyncClient) -> None:
    assert (await post(client, CHAT, chat(words(40))))["usage"]["prompt_tokens_details"] is None


async def test_the_next_turn_finds_the_turn_before_with_its_answer(
    client: httpx.AsyncClient, engine: EchoEngine
) -> None:
    engine.configure(prefix_cache_tokens=4096)
    body = chat(words(100))
    assert await cached(client, body) == 0
    body["messages"] += [{"role": "assistant", "content": words(100)}, {"role": "user", "content": "go on"}]
    assert await cached(client, body) == 192  # 12 full blocks of the 202 tokens of the first turn
    counts = engine.stats()
    assert (counts["cache_queries"], counts["cache_hits"]) == (102 + 206, 192)
    text = (await client.get("/metrics")).text
    assert metric(text, "prefix_cache_queries_total") == 308.0
    assert metric(text, "prefix_cache_hits_total") == 192.0


async def test_a_stream_reports_what_was_cached_with_its_usage(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    engine.configure(prefix_cache_tokens=4096)
    body = chat(words(50), stream=True, stream_options={"include_usage": True})
    for found in (0, 48):
        answer = (await client.post(CHAT, json=body)).raise_for_status()
        assert events(answer.text)[-2]["usage"]["prompt_tokens_details"] == {"cached_tokens": found}


async def test_completions_and_responses_use_the_same_cache(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    engine.configure(prefix_cache_tokens=4096)
    body = {"model": "echo", "prompt": words(40), "n": 2}
    assert [await cached(client, body, "/v1/completions") for _ in range(2)] == [0, 32]
    asked = {"model": "echo", "input": words(40)}
    details = [(await post(client, "/v1/responses", asked))["usage"]["input_tokens_details"] for _ in range(2)]
    assert details == [{"cached_tokens": 0}, {"cached_tokens": 32}]


async def test_other_salts_share_nothing(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    engine.configure(prefix_cache_tokens=4096)
    salts = ("one", "other", "one")
    assert [await cached(client, chat(words(40), cache_salt=salt)) for salt in salts] == [0, 0, 32]


async def test_a_cache_of_another_size_starts_empty(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    engine.configure(prefix_cache_tokens=4096)
    await cached(client, chat(words(40)))
    engine.configure(prefix_cache_tokens=2048)
    assert await cached(client, chat(words(40))) == 0


async def test_a_full_cache_forgets(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    engine.configure(prefix_cache_tokens=112)
    await cached(client, chat(words(60)))
    await cached(client, chat(words(60, first=1000)))
    assert await cached(client, chat(words(60))) == 0


async def test_prompts_are_computed_one_after_the_other_and_cached_ones_at_once(
    client: httpx.AsyncClient, engine: EchoEngine
) -> None:
    engine.configure(prefix_cache_tokens=8192, prefill_us_per_token=1000)
    bodies = [chat(words(98, first=1000 * number), max_tokens=1) for number in range(3)]
    started = time.monotonic()
    await asyncio.gather(*(post(client, CHAT, body) for body in bodies))
    first = time.monotonic() - started
    started = time.monotonic()
    await asyncio.gather(*(post(client, CHAT, body) for body in bodies))
    again = time.monotonic() - started
    assert first >= 0.3
    assert again < first / 2


async def test_leaving_in_the_middle_of_a_prompt_lets_the_next_one_in(
    client: httpx.AsyncClient, engine: EchoEngine
) -> None:
    engine.configure(prefill_us_per_token=1_000_000)
    leaver = asyncio.create_task(post(client, CHAT, chat(words(200))))
    await engine.holds(1)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    await engine.idle()
    engine.configure(prefill_us_per_token=1)
    assert (await post(client, CHAT, chat("quick")))["choices"][0]["message"]["content"] == "quick"
