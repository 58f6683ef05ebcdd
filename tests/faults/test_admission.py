"""Admission as clients see it: permits, the queue and its end, honest waits, models that are not ready."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest

from tests.engines import EchoEngine
from tests.faults.looking import at_rest, complaints, count, engine_of
from tests.faults.talking import CHAT, FOREVER, ask, asking, question
from tests.servers import Tritium, echo_repository, serving, status
from tests.waiting import eventually

SLOTS, QUEUE = 2, 3
STEADY = {"ttft_ms": 250}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    models = {"echo": {"slots": SLOTS}, "steady": {"slots": SLOTS}, "single": {"slots": 1}, "other": {}}
    flags = ("--max-queue-size", str(QUEUE))
    with serving(echo_repository(tmp_path_factory.mktemp("models"), models), *flags) as tritium:
        yield tritium
        assert complaints(tritium) == []


@pytest.fixture(autouse=True)
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        echo.reset()
        yield echo
        await echo.idle(seconds=1)
    at_rest(server)
    assert count(server, "queue_depth") == 0


def underway(server: Tritium, model: str, number: float) -> None:
    eventually(lambda: count(server, "requests_in_flight", model=model) == number)


async def fill(stack: AsyncExitStack, server: Tritium, number: int) -> None:
    """So many requests more that never end, each in its place before the next comes."""
    there = count(server, "requests_in_flight", model="echo")
    for more in range(1, number + 1):
        await stack.enter_async_context(asking(server.url, question(echo=FOREVER)))
        underway(server, "echo", there + more)


async def test_the_engine_gets_as_many_requests_as_it_has_slots(server: Tritium, engine: EchoEngine) -> None:
    async with AsyncExitStack() as stack:
        await fill(stack, server, SLOTS + 2)
        stats = await engine.holds(SLOTS)
        assert stats["requests"] == SLOTS
        assert count(server, "queue_depth", model="echo") == 2


async def test_a_full_queue_is_a_429_with_a_wait(server: Tritium, engine: EchoEngine) -> None:
    async with AsyncExitStack() as stack:
        await fill(stack, server, SLOTS + QUEUE)
        for stream in (True, False):
            answer, body = await ask(server.url, question(stream=stream))
            error = json.loads(body)["error"]
            assert (answer.status, error["type"], error["code"]) == (429, "rate_limit_error", "overloaded")
            assert f"{SLOTS} requests run and {QUEUE} wait" in error["message"]
            milliseconds = int(answer.headers["retry-after-ms"])
            seconds = int(answer.headers["retry-after"])
            assert (seconds - 1) * 1000 < milliseconds <= seconds * 1000
        # Another model's queue is its own.
        answer, _ = await ask(server.url, question(model="other"))
        assert answer.status == 200
    assert (await engine.idle(seconds=1))["requests"] == SLOTS


async def fill_steady(stack: AsyncExitStack, server: Tritium) -> None:
    """Every permit and place of a model whose requests all take as long."""
    for number in range(SLOTS + QUEUE):
        await stack.enter_async_context(asking(server.url, question(model="steady", echo=STEADY)))
        underway(server, "steady", number + 1)


async def test_a_client_that_waits_as_long_as_it_is_told_gets_in(server: Tritium) -> None:
    async with AsyncExitStack() as stack:
        await fill_steady(stack, server)
        answer, _ = await ask(server.url, question(model="steady"))
        assert answer.status == 429
        await asyncio.sleep(int(answer.headers["retry-after-ms"]) / 1000)
        answer, _ = await ask(server.url, question(model="steady", echo=STEADY))
        assert answer.status == 200


async def test_the_openai_client_waits_and_gets_in(server: Tritium) -> None:
    turns: list[Any] = [{"role": "user", "content": "in"}]
    async with AsyncExitStack() as stack:
        await fill_steady(stack, server)
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=1) as client:
            answer = await client.chat.completions.create(model="steady", messages=turns, extra_body={"echo": STEADY})
        assert answer.choices[0].message.content == "in"


async def test_the_queue_is_first_come_first_served(server: Tritium) -> None:
    served: list[int] = []

    async def one(number: int) -> None:
        answer, _ = await ask(server.url, question(model="single", stream=number % 2 == 0, echo={"ttft_ms": 30}))
        assert answer.status == 200
        served.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(1 + QUEUE):
            group.create_task(one(number))
            while count(server, "requests_in_flight", model="single") + len(served) <= number:
                await asyncio.sleep(0.005)
    assert served == sorted(served)


async def test_leaving_the_queue_makes_room_in_it(server: Tritium, engine: EchoEngine) -> None:
    async with AsyncExitStack() as stack:
        await fill(stack, server, SLOTS + QUEUE - 1)
        async with AsyncExitStack() as leaving:
            await fill(leaving, server, 1)
            answer, _ = await ask(server.url, question())
            assert answer.status == 429
        eventually(lambda: count(server, "queue_depth", model="echo") == QUEUE - 1)
        await fill(stack, server, 1)
    assert (await engine.idle(seconds=1))["requests"] == SLOTS


async def test_an_engines_failure_gives_the_permit_back(server: Tritium) -> None:
    for fault in ("refuse", "cut", "eof", "500", "text-error", "error-event"):
        for stream in (True, False):
            for _ in range(SLOTS + 1):
                await ask(server.url, question(stream=stream, echo={"fault": fault}))
    answer, _ = await ask(server.url, question())
    assert answer.status == 200


async def test_waits_are_measured(server: Tritium) -> None:
    names = ("queue_wait_seconds_sum", "queue_wait_seconds_count")
    before = [count(server, name, model="single") for name in names]
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(ask(server.url, question(model="single", echo={"ttft_ms": 100})))
    at_rest(server)
    after = [count(server, name, model="single") for name in names]
    assert after[1] - before[1] == 3
    assert 0.25 < after[0] - before[0] < 0.6


async def test_a_model_that_loads_is_a_503_with_a_wait_while_others_serve(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    models = {"late": {"start_delay_ms": 2500}, "echo": {}, "broken": {"nonsense": 1}}
    with serving(echo_repository(tmp_path_factory.mktemp("models"), models), is_awaited=False) as starting:
        eventually(lambda: status(f"{starting.url}/health/live") == 200, seconds=20)
        while (await ask(starting.url, question()))[0].status != 200:
            await asyncio.sleep(0.02)
        assert status(f"{starting.url}/health/ready") == 503
        answer, body = await ask(starting.url, question(model="late"))
        error = json.loads(body)["error"]
        assert (answer.status, error["type"], error["code"]) == (503, "service_unavailable_error", "model_not_ready")
        assert "STARTING" in error["message"]
        assert int(answer.headers["retry-after"]) >= 1
        answer, body = await ask(starting.url, question(model="broken"))
        assert answer.status == 503
        assert "'nonsense'" in json.loads(body)["error"]["message"]
        eventually(starting.is_ready, seconds=20)
        answer, _ = await ask(starting.url, question(model="late"), CHAT)
        assert answer.status == 200
