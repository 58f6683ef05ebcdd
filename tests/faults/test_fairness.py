"""Fairness as clients feel it: a tenant that floods a model neither delays the others nor takes more than its share."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import pytest

from tests.faults.looking import complaints, count
from tests.faults.talking import CHAT, asking, question
from tests.servers import Tritium, echo_repository, serving

SLOTS = 48
QUEUE = 400
# A request takes 0.25 s to its first token and 0.2 to 0.6 s more: a slot comes free every 14 ms or so.
PACE = {"slots": SLOTS, "ttft_ms": 250, "itl_ms": 20}
MODEST_A_SECOND = 4
FLOOD = 20
SECONDS = 12.0
ROUNDS = 3
TENANTS = """
[tenants.flood]
keys = ["sk-flood"]
[tenants.modest]
keys = ["sk-modest"]
[tenants.heavy]
keys = ["sk-heavy"]
weight = 3
[tenants.bulk]
keys = ["sk-bulk"]
priority = "bulk"
[tenants.urgent]
keys = ["sk-urgent"]
priority = "interactive"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    folder = tmp_path_factory.mktemp("fair")
    keys = Path(folder / "tenants.toml")
    keys.write_text(TENANTS)
    models = {"echo": PACE, "small": {**PACE, "slots": 8, "ttft_ms": 60, "itl_ms": 4}}
    flags = ("--api-key-file", str(keys), "--max-queue-size", str(QUEUE))
    with serving(echo_repository(folder / "models", models), *flags) as tritium:
        yield tritium
        assert complaints(tritium) == []


class Load:
    """Requests of one tenant, and what became of them: waits for the first token, statuses, tokens."""

    def __init__(self, server: Tritium, tenant: str, seed: int, model: str = "echo") -> None:
        self.waits: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.tokens = 0
        self.until = float("inf")
        """Tokens of answers that end later are not counted."""
        self._url = server.url
        self._tenant = tenant
        self._model = model
        self._rng = random.Random(seed)

    async def one(self, *, stream: bool) -> None:
        words = self._rng.randint(10, 30)
        options: dict[str, Any] = {"max_tokens": 200, "stream": stream, "echo": {"tokens": words}}
        started = monotonic()
        key = f"x-api-key: sk-{self._tenant}"
        async with asking(self._url, question(model=self._model, **options), CHAT, key) as answer:
            status = await answer.head()
            self.statuses[status] += 1
            if status == 200 and stream:
                await answer.event()
                self.waits.append(monotonic() - started)
            body = await answer.rest()
            if status == 200 and monotonic() < self.until:
                self.tokens += words + self._prompt_tokens(body, stream=stream)

    @staticmethod
    def _prompt_tokens(body: bytes, *, stream: bool) -> int:
        return 0 if stream else int(json.loads(body)["usage"]["prompt_tokens"])

    async def at_a_rate(self, a_second: float, seconds: float, *, stream: bool) -> None:
        """Requests that come whether those before have ended or not."""
        started = monotonic()
        async with asyncio.TaskGroup() as group:
            number = 0
            while (due := number / a_second) < seconds:
                await asyncio.sleep(max(0.0, started + due - monotonic()))
                group.create_task(self.one(stream=stream))
                number += 1

    async def without_pause(self, clients: int, seconds: float) -> None:
        """Clients that each ask again as soon as they are answered."""
        self.until = monotonic() + seconds

        async def client() -> None:
            while monotonic() < self.until:
                await self.one(stream=False)

        await asyncio.gather(*(client() for _ in range(clients)))


def at(waits: list[float], share: float) -> float:
    return sorted(waits)[min(len(waits) - 1, int(share * len(waits)))]


@pytest.mark.timeout(240)
async def test_a_tenant_with_twenty_times_the_load_does_not_delay_the_other(server: Tritium) -> None:
    # What else the machine does can only lengthen a wait, and its bursts are shorter than a round: one round in
    # which nothing was delayed shows that the gateway delays nothing. One that did would do so in each.
    for round_number in range(ROUNDS):
        alone, beside = Load(server, "modest", round_number), Load(server, "modest", round_number)
        await alone.at_a_rate(MODEST_A_SECOND, SECONDS, stream=True)
        flood = Load(server, "flood", ROUNDS + round_number)
        flooding = asyncio.create_task(flood.at_a_rate(MODEST_A_SECOND * FLOOD, SECONDS + 3, stream=False))
        while count(server, "queue_depth", model="echo") < 10:  # until the model is full
            await asyncio.sleep(0.1)
        await beside.at_a_rate(MODEST_A_SECOND, SECONDS, stream=True)
        deepest = count(server, "queue_depth", model="echo")
        await flooding
        assert beside.statuses == {200: len(beside.waits)}
        (p50, p99), (p50_beside, p99_beside) = ((median(load.waits), at(load.waits, 0.99)) for load in (alone, beside))
        print(
            f"time to first token, alone: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms; "
            f"beside {FLOOD} times the load: p50 {p50_beside * 1e3:.0f} ms, p99 {p99_beside * 1e3:.0f} ms; "
            f"{deepest:.0f} of the flood waited; flood: {dict(flood.statuses)}"
        )
        if p50_beside <= 1.5 * p50 and p99_beside <= 1.5 * p99:
            return
    pytest.fail(f"delayed in each of {ROUNDS} rounds")


async def test_shares_of_tokens_match_weights(server: Tritium) -> None:
    flood, heavy = Load(server, "flood", 3, "small"), Load(server, "heavy", 4, "small")
    async with asyncio.TaskGroup() as group:
        for load in (flood, heavy):
            group.create_task(load.without_pause(30, SECONDS))
    share = heavy.tokens / (heavy.tokens + flood.tokens)
    print(f"weights 3 and 1: {heavy.tokens} and {flood.tokens} tokens, a share of {share:.3f}")
    assert share == pytest.approx(0.75, rel=0.1)
    assert 1 - share == pytest.approx(0.25, rel=0.1)


async def test_bulk_work_yields(server: Tritium) -> None:
    bulk, urgent = Load(server, "bulk", 5, "small"), Load(server, "urgent", 6, "small")
    async with asyncio.TaskGroup() as group:
        for load in (bulk, urgent):
            group.create_task(load.without_pause(20, 4.0))
    print(f"urgent {urgent.tokens} tokens, bulk {bulk.tokens}")
    assert bulk.tokens < 0.1 * urgent.tokens
    assert set(bulk.statuses) == {200}


async def test_a_full_queue_has_room_for_who_waits_less(server: Tritium) -> None:
    flood = [asyncio.create_task(Load(server, "flood", number).one(stream=False)) for number in range(SLOTS + QUEUE)]
    while count(server, "queue_depth", model="echo") < QUEUE:  # until the queue is full
        await asyncio.sleep(0.02)
    modest = Load(server, "modest", 1)
    await modest.one(stream=True)
    assert modest.statuses == {200: 1}
    for task in flood:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
