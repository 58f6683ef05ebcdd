"""Reservations: never over a limit, settled to the truth, and honest about the wait."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import RateLimited, Unavailable
from backends.model import Capability
from gateway.cost import Cost
from gateway.counters import Counters, MemoryCounters
from gateway.dialect import read_call
from gateway.quotas import NOTHING, Quotas, duration
from gateway.redis_counters import RedisCounters
from gateway.shared_counters import SharedCounters
from gateway.tenants import Limits, Tenant, Window
from tests.redis_servers import redis_server
from tests.waiting import eventually_async


def cost(tokens: int | None = None, *, stream: bool = False) -> Cost:
    fields: dict[str, Any] = {"model": "m", "stream": stream}
    made = Cost(read_call(msgspec.json.encode(fields)), Capability.CHAT, None)
    if tokens is not None:
        made.prompt_tokens, made.output_tokens, made.asked_tokens = 0, tokens, tokens
    return made


def tenant(**limits: Any) -> Tenant:
    return Tenant("t", Limits(**limits))


def fields(lines: bytes) -> dict[str, str]:
    assert lines.endswith(b"\r\n")
    return dict(line.split(": ") for line in lines.decode().splitlines())


async def test_a_limit_lets_in_as_many_as_it_says_and_tells_the_rest_when_to_come() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    who = tenant(requests_per_minute=3)
    for left in (2, 1, 0):
        reservation = await quotas.reserve(who, cost())
        assert reservation.refusal is None
        said = fields(reservation.head_lines)
        assert (said["x-ratelimit-limit-requests"], said["x-ratelimit-remaining-requests"]) == ("3", str(left))
    refused = await quotas.reserve(who, cost())
    assert isinstance(refused.refusal, RateLimited)
    wait = refused.refusal.retry_after_seconds
    assert wait is not None
    # The window that it waits for is over just then.
    window, now = who.windows[0], time()
    assert wait == pytest.approx(window.left(now), abs=0.5)
    assert window.index(now + wait + 0.5) == window.index(now) + 1
    assert all(word in refused.refusal.message for word in ("'t'", "3 requests a minute", "3 used"))
    assert fields(refused.head_lines)["x-ratelimit-remaining-requests"] == "0"


async def test_what_was_reserved_and_not_used_is_there_for_others() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    who = tenant(tokens_per_minute=1000)
    first = await quotas.reserve(who, cost(900))
    assert (await quotas.reserve(who, cost(200))).refusal is not None
    first.settle(100)
    second = await quotas.reserve(who, cost(900))
    assert second.refusal is None
    assert fields(second.head_lines)["x-ratelimit-remaining-tokens"] == "0"
    second.settle(None)
    third = await quotas.reserve(who, cost(900))
    assert third.refusal is None
    third.settle(5000)  # it cost more than anybody thought: the rest of the window is closed
    assert (await quotas.reserve(who, cost(1))).refusal is not None


async def test_a_refused_request_uses_nothing_up() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    who = tenant(requests_per_minute=3, tokens_per_minute=100, concurrent_streams=1)
    for _ in range(20):
        assert (await quotas.reserve(who, cost(90_000, stream=True))).refusal is not None
    admitted = [await quotas.reserve(who, cost(10)) for _ in range(3)]
    assert all(each.refusal is None for each in admitted)


async def test_of_two_limits_the_longer_wait_is_told() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    who = tenant(requests_per_minute=1, tokens_per_day=100)
    (await quotas.reserve(who, cost(100))).settle(100)
    refusal = (await quotas.reserve(who, cost(10))).refusal
    assert refusal is not None
    day = who.windows[1].left(time())
    assert refusal.retry_after_seconds == pytest.approx(day, abs=1)
    assert "tokens a day" in refusal.message


async def test_a_request_over_the_limit_is_told_not_to_come_again() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    refusal = (await quotas.reserve(tenant(tokens_per_minute=100), cost(101))).refusal
    assert refusal is not None
    assert refusal.is_final
    assert refusal.retry_after_seconds is None


async def test_our_guess_at_an_answers_length_never_makes_a_request_too_large() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    assert (await quotas.reserve(tenant(tokens_per_minute=20), cost())).refusal is None


async def test_streams_are_counted_while_they_last() -> None:
    quotas = Quotas(MemoryCounters(), fails_open=True)
    who = tenant(concurrent_streams=2)
    first, second = [await quotas.reserve(who, cost(stream=True)) for _ in range(2)]
    refusal = (await quotas.reserve(who, cost(stream=True))).refusal
    assert refusal is not None
    assert "2 streams" in refusal.message
    assert (await quotas.reserve(who, cost())).refusal is None  # it does not stream
    first.settle(10)
    assert (await quotas.reserve(who, cost(stream=True))).refusal is None
    second.settle(None)
    assert (await quotas.reserve(who, cost(stream=True))).refusal is None


def test_whoever_has_no_limits_reserves_nothing() -> None:
    NOTHING.settle(100)
    NOTHING.settle(None)
    assert (NOTHING.head_lines, NOTHING.refusal) == (b"", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, b"1s"), (1, b"1s"), (59, b"59s"), (60, b"1m0s"), (360, b"6m0s"), (3600, b"1h0m0s"), (86399, b"23h59m59s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: int, text: bytes) -> None:
    assert duration(seconds) == text


class Out(MemoryCounters):
    """Counters that can count nothing, or nothing but places."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    async def take(self, windows: Sequence[Window], now: float, tokens: int) -> Sequence[int]:  # noqa: ARG002
        raise Unavailable("Out.")

    async def occupy(self, tenant: str, limit: int) -> bool:
        if self.steps == 0:
            raise Unavailable("Out.")
        return await super().occupy(tenant, limit)


@pytest.mark.parametrize("steps", [0, 1])
async def test_where_nothing_can_be_counted_the_settings_say_what_becomes_of_requests(steps: int) -> None:
    who = tenant(requests_per_minute=5, tokens_per_minute=100, concurrent_streams=1)
    counters = Out(steps)
    with pytest.raises(Unavailable):
        await Quotas(counters, fails_open=False).reserve(who, cost(10, stream=True))
    assert not counters._places
    reservation = await Quotas(Out(steps), fails_open=True).reserve(who, cost(10, stream=True))
    assert reservation.refusal is None
    reservation.settle(3)


async def flood(counters: Counters, limit: int, sizes: list[int], seed: int) -> None:
    """Requests that come, end and fail at once: the invariant is looked at after each step."""
    rng = random.Random(seed)
    quotas = Quotas(counters, fails_open=False)
    who = Tenant(f"t{seed}", Limits(tokens_per_day=limit, requests_per_minute=1_000_000))
    reserved: Counter[int] = Counter()
    settled = refused = 0

    async def one(number: int, size: int) -> None:
        nonlocal settled, refused
        reservation = await quotas.reserve(who, cost(size))
        if reservation.refusal is not None:
            refused += 1
            return
        reserved[number] = size
        # What was let in fits, whatever comes of it: at no time are reservations over the limit.
        assert settled + sum(reserved.values()) <= limit
        await asyncio.sleep(0)
        spent = rng.choice([None, 0, size // 2, size])
        del reserved[number]
        settled += spent or 0
        reservation.settle(spent)

    await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))

    async def exact() -> bool:
        return await counters.take(who.windows[1:], time(), 0) == [settled]

    await eventually_async(exact, what=f"a count of {settled}")


SIZES = st.lists(st.integers(1, 60), min_size=20, max_size=60)


@settings(deadline=None, max_examples=40)
@given(st.integers(50, 500), SIZES, st.integers(0, 1 << 30))
def test_limits_are_exact_under_concurrency_in_memory(limit: int, sizes: list[int], seed: int) -> None:
    asyncio.run(flood(MemoryCounters(), limit, sizes, seed))


@pytest.mark.parametrize("seed", range(3))
async def test_limits_are_exact_under_concurrency_in_a_shared_table(seed: int, tmp_path: Path) -> None:
    await flood(SharedCounters(tmp_path / "limits", 0, 2), 300, [random.Random(seed).randint(1, 60)] * 60, seed)


@pytest.mark.slow
async def test_limits_are_exact_under_concurrency_in_redis() -> None:
    with redis_server() as server:
        counters = RedisCounters(server.url, lease_seconds=60)
        work = asyncio.create_task(counters.run())
        try:
            for seed in range(5):
                sizes = [random.Random(seed).randint(1, 60) for _ in range(200)]
                await flood(counters, 300, sizes, seed)
        finally:
            work.cancel()
            await asyncio.wait([work])


async def test_a_request_that_leaves_while_it_is_counted_gives_its_place_back() -> None:
    class Slow(MemoryCounters):
        async def take(self, windows: Sequence[Window], now: float, tokens: int) -> Sequence[int]:
            await asyncio.get_running_loop().create_future()
            return await super().take(windows, now, tokens)

    counters = Slow()
    who = tenant(requests_per_minute=5, tokens_per_minute=100, concurrent_streams=1)
    task = asyncio.create_task(Quotas(counters, fails_open=True).reserve(who, cost(10, stream=True)))
    await asyncio.sleep(0)
    assert counters._places
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not counters._places
