"""Loads of engines: who is asked, and what becomes of what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.config import ModelConfig
from backends.model import Endpoint, State
from gateway.loads import LoadWatch
from gateway.snapshot import Loads, ModelStatus
from tests.engines import EchoEngine, echo_engine
from tests.waiting import eventually_async

BODY = b'{"model":"echo","stream":true,"messages":[{"role":"user","content":"a"}],"echo":{"ttft_ms":600000}}'


def model(name: str, *endpoints: Endpoint, backend: str = "echo") -> ModelStatus:
    return ModelStatus(ModelConfig(name, backend), State.READY, endpoints=endpoints)


def endpoint(name: str, engine: EchoEngine, state: State = State.READY) -> Endpoint:
    return Endpoint(name, engine.address, state)


@asynccontextmanager
async def watching(*statuses: ModelStatus) -> AsyncIterator[list[Loads]]:
    """What was told so far."""
    told: list[Loads] = []
    task = asyncio.create_task(LoadWatch(lambda: statuses, told.append, 0.02).run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_the_endpoints_of_a_model_that_has_several_are_asked() -> None:
    with echo_engine() as first, echo_engine() as second:
        several = model("m", endpoint("m-0", first), endpoint("m-1", second))
        async with watching(several) as told, first.client() as client:

            async def says(running: float) -> bool:
                return bool(told) and [load.running for load in told[-1].loads.values()] == [running, 0]

            await eventually_async(lambda: says(0))
            async with client.stream("POST", "/v1/chat/completions", content=BODY):
                await eventually_async(lambda: says(1))
            await eventually_async(lambda: says(0))


async def test_who_says_nothing_is_left_out() -> None:
    with echo_engine() as first, echo_engine() as second:
        gone = Endpoint("m-1", "unix:/nowhere.sock", State.READY)
        async with watching(model("m", endpoint("m-0", first), gone, endpoint("m-2", second))) as told:

            async def holds() -> bool:
                return bool(told) and set(told[-1].loads) == {"m-0", "m-2"}

            await eventually_async(holds)


async def test_a_single_endpoint_and_those_that_are_not_ready_are_left_alone() -> None:
    with echo_engine() as first, echo_engine() as second:
        statuses = [
            model("one", endpoint("one-0", first)),
            model("half", endpoint("half-0", first), endpoint("half-1", second, State.DRAINING)),
            model("unknown", endpoint("unknown-0", first), endpoint("unknown-1", second), backend="abacus"),
            model("m", endpoint("m-0", first), endpoint("m-1", second)),
        ]
        async with watching(*statuses) as told:

            async def holds() -> bool:
                return len(told) > 2

            await eventually_async(holds)
            assert all(set(loads.loads) == {"m-0", "m-1"} for loads in told)
