"""A client that leaves frees the real engine within a second, at any moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.clients.asking import STORY
from tests.clients.served import RUNNING, Served, cpu_seconds
from tests.faults.looking import count
from tests.waiting import eventually, eventually_async

pytestmark = pytest.mark.engine

FOREVER: Any = {"max_tokens": 1000, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def served(completer: Served) -> Served:
    return completer


async def chat_stream(served: Served) -> None:
    async with served.openai_async() as client:
        stream = await client.chat.completions.create(model=served.model, messages=STORY, stream=True, **FOREVER)
        async for _ in stream:
            pass


async def chat(served: Served) -> None:
    async with served.openai_async() as client:
        await client.chat.completions.create(model=served.model, messages=STORY, **FOREVER)


async def response_stream(served: Served) -> None:
    asked: Any = {"model": served.model, "input": "Write a story.", "max_output_tokens": 1000}
    async with served.openai_async() as client:
        stream = await client.responses.create(**asked, stream=True, extra_body={"ignore_eos": True})
        async for _ in stream:
            pass


async def response(served: Served) -> None:
    asked: Any = {"model": served.model, "input": "Write a story.", "max_output_tokens": 1000}
    async with served.openai_async() as client:
        await client.responses.create(**asked, extra_body={"ignore_eos": True})


async def message(served: Served) -> None:
    async with served.anthropic_async() as client:
        await client.messages.create(model=served.model, messages=STORY, max_tokens=1000)


WAYS = (chat_stream, chat, response_stream, response, message)


@pytest.fixture(autouse=True)
def undisturbed(served: Served) -> None:
    """A young server of the demo ingests its handbook, on all processors: leaving is not timed beside that."""

    def is_ingested() -> bool:
        with served.openai() as client:
            counts = [store.file_counts for store in client.vector_stores.list() if store.name == "handbook"]
        return any(found.completed == found.total > 0 for found in counts)

    if served.kind == "llamacpp":
        eventually(is_ingested, seconds=90, what="the handbook's ingestion")


@asynccontextmanager
async def asking(way: Callable[[Served], Awaitable[None]], served: Served) -> AsyncIterator[asyncio.Task[None]]:
    """A request under way, which is given up at the end of the block."""

    async def ask() -> None:
        await way(served)

    task = asyncio.create_task(ask())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_running(served: Served, number: int, *, seconds: float = 10.0) -> None:
    async def probe() -> bool:
        return await asyncio.to_thread(served.running) == number

    await eventually_async(probe, seconds=seconds, what=f"{number} requests in the engine")


@pytest.mark.parametrize("way", WAYS)
async def test_leaving_frees_the_engine(served: Served, way: Callable[[Served], Awaitable[None]]) -> None:
    if served.kind == "tensorrtllm" and way not in (chat_stream, chat):
        pytest.skip("this kind offers neither responses nor messages")
    async with asking(way, served) as task:
        await is_running(served, 1)
        assert not task.done()
    await is_running(served, 0, seconds=served.freed_seconds)
    exported = await asyncio.to_thread(served.exported_metric, RUNNING[served.kind])
    in_flight = await asyncio.to_thread(count, served.server, "requests_in_flight")
    assert (exported, in_flight) == (0, 0)


@pytest.mark.parametrize("way", [chat_stream, chat])
async def test_leaving_while_the_prompt_is_read_frees_the_engine(
    served: Served, way: Callable[[Served], Awaitable[None]]
) -> None:
    async with asking(way, served):

        async def is_sent() -> bool:
            return await asyncio.to_thread(count, served.server, "requests_in_flight") == 1

        await eventually_async(is_sent)
    await is_running(served, 0, seconds=served.freed_seconds)


async def test_leaving_in_the_middle_of_a_long_prompt_frees_the_engine(served: Served) -> None:
    async def read() -> None:
        async with served.openai_async() as client:
            # Not from the cache of prompts: its first words are its own.
            prompt = f"{time.time()} " + "again " * 1500
            asked: Any = {
                "model": served.model,
                "prompt": prompt,
                "max_tokens": 500,
                "extra_body": {"ignore_eos": True},
            }
            async for _ in await client.completions.create(**asked, stream=True):
                pass

    async with asking(lambda _: read(), served) as task:
        await is_running(served, 1)
        assert not task.done()
    await is_running(served, 0, seconds=served.freed_seconds)


async def test_all_that_leave_at_once_are_freed(served: Served) -> None:
    # Once they generate: the prompts of all are one batch, which no engine gives up in the middle.
    generating = asyncio.Barrier(9)

    async def stream() -> None:
        async with served.openai_async() as client:
            chunks = await client.chat.completions.create(model=served.model, messages=STORY, stream=True, **FOREVER)
            async for chunk in chunks:
                if chunk.choices[0].delta.content:
                    break
            await generating.wait()
            async for _ in chunks:
                pass

    tasks = [asyncio.create_task(stream()) for _ in range(8)]
    await generating.wait()
    await is_running(served, 8)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await is_running(served, 0, seconds=served.freed_seconds)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_stops_an_engine_without_metrics(transformers: Served, is_stream: bool) -> None:
    # Whether it works shows in its use of the processor.
    pid = transformers.process()

    async def stream() -> None:
        async with transformers.openai_async() as client:
            asked: Any = {"model": transformers.model, "messages": STORY, "max_tokens": 1500}
            answer: Any = await client.chat.completions.create(**asked, stream=is_stream)
            if is_stream:
                async for _ in answer:
                    pass

    start = cpu_seconds(pid)
    async with asking(lambda _: stream(), transformers) as task:

        async def is_busy() -> bool:
            return cpu_seconds(pid) - start > 0.5

        await eventually_async(is_busy, seconds=30.0)
        assert not task.done()

    async def is_idle() -> bool:
        before = cpu_seconds(pid)
        await asyncio.sleep(0.3)  # a window to look at, not a wait
        return cpu_seconds(pid) - before < 0.05

    await eventually_async(is_idle, seconds=2.0)


async def test_a_bare_connection_that_closes_frees_the_engine(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.server.url, timeout=30) as client:
        asked = {"model": served.model, "prompt": "One, two,", "max_tokens": 1000, "ignore_eos": True, "stream": True}
        async with client.stream("POST", "/v1/completions", json=asked) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            await is_running(served, 1)
    await is_running(served, 0, seconds=served.freed_seconds)
