"""Clients that leave: at any moment, the slot is free at once and an abort is counted."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.backends.simulator.asking import asking, chat, events, request, said
from tests.engines import EchoEngine

CHAT = "/v1/chat/completions"
AT_ONCE_SECONDS = 0.5
FOREVER = {"ttft_ms": 600_000}


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_token_frees_the_slot(engine: EchoEngine, stream: bool) -> None:
    async with asking(engine, chat(stream=stream, echo=FOREVER)):
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 1


async def test_leaving_between_tokens_frees_the_slot(engine: EchoEngine) -> None:
    async with asking(engine, chat(stream=True, echo={"itl_ms": 600_000})) as reader:
        await reader.readuntil(b'"hello"')
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_the_queue_frees_the_place(engine: EchoEngine, stream: bool) -> None:
    engine.configure(slots=1)
    async with asking(engine, chat(stream=True, echo=FOREVER)):
        await engine.holds(1)
        async with asking(engine, chat(stream=stream)):
            await engine.holds(1, 1)
        assert (await engine.holds(1, seconds=AT_ONCE_SECONDS))["aborted"] == 1
    assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 2


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"max_tokens": 3, "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/embeddings", {"input": "a"}),
        ("/rerank", {"query": "a", "documents": ["a"]}),
    ],
)
async def test_leaving_any_operation_frees_the_slot(engine: EchoEngine, path: str, fields: dict[str, Any]) -> None:
    async with asking(engine, {**fields, "stream": True, "echo": FOREVER}, path):
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 1


@pytest.mark.parametrize("fault", ["hang-before-head", "hang-before-first-token", "hang"])
async def test_leaving_a_hung_answer_frees_the_slot(engine: EchoEngine, fault: str) -> None:
    async with asking(engine, chat(stream=True, echo={"fault": fault})):
        await engine.holds(1)
    assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 1


async def test_shutting_the_sending_side_counts_as_leaving(engine: EchoEngine) -> None:
    async with engine.connect() as (_, writer):
        writer.write(request(CHAT, chat(stream=True, echo=FOREVER)))
        await engine.holds(1)
        writer.write_eof()
        assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 1


async def test_those_who_wait_are_served_in_the_order_they_came(engine: EchoEngine) -> None:
    engine.configure(slots=1)
    order: list[str] = []

    async def ask(word: str) -> None:
        async with asking(engine, chat(word, stream=True)) as reader:
            await reader.readuntil(f'"{word}"'.encode())
            order.append(word)

    async with AsyncExitStack() as stack, asking(engine, chat(stream=True, echo=FOREVER)):
        await engine.holds(1)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for place, word in enumerate(("first", "second", "third"), start=1):
            group.create_task(ask(word))
            await asyncio.sleep(0)
            await engine.holds(1, place)
    assert order == ["first", "second", "third"]


async def test_more_slots_let_those_who_wait_in(engine: EchoEngine) -> None:
    engine.configure(slots=1)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(asking(engine, chat(stream=True, echo=FOREVER)))
        await engine.holds(1, 2)
        engine.configure(slots=2)
        await engine.holds(2, 1)
    assert (await engine.idle(seconds=AT_ONCE_SECONDS))["aborted"] == 3


async def test_two_hundred_streams_at_once_all_finish(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    async def ask(number: int) -> list[str]:
        body = chat(f"request number {number}", stream=True, echo={"itl_ms": 10})
        return said(events((await client.post(CHAT, json=body)).text))

    answers = await asyncio.gather(*(ask(number) for number in range(200)))
    assert answers == [["request", " number", f" {number}"] for number in range(200)]
    stats = await engine.idle()
    assert (stats["finished"], stats["aborted"]) == (200, 0)
    assert stats["max_active"] > 20
