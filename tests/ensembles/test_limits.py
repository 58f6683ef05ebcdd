"""`max_inflight_requests`: how many requests of a step are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from backends.model import InferRequest, InferResponse
from tests.ensembles.composing import (
    Fake,
    ask,
    config,
    ensemble,
    ensemble_config,
    mapping,
    numbers,
    repeating,
    step,
    values,
)
from tests.waiting import eventually_async

X_TO_Y = ({"X": "INT32 [-1]"}, {"Y": "INT32 [-1]"})


async def test_no_more_requests_of_a_step_are_under_way_than_the_limit() -> None:
    pace = asyncio.Semaphore(0)

    async def slow(request: InferRequest) -> AsyncIterator[InferResponse]:
        await pace.acquire()
        yield InferResponse([numbers("OUT", *values(request.inputs[0]))])

    stream = ensemble_config(
        {"X": "INT32 [-1]"},
        {"Y": "INT32 [1]"},
        step("repeat", {"IN": "X"}, {"OUT": "t"}),
        step("slow", {"IN": "t"}, {"OUT": "Y"}),
        decoupled=True,
        max_inflight_requests=2,
    )
    fake = Fake(config("slow", {"IN": "INT32 [1]"}, {"OUT": "INT32 [1]"}), slow)
    model = ensemble(stream, repeating(), fake)
    asking = [asyncio.ensure_future(ask(model, numbers("X", *range(5)))) for _ in range(2)]

    async def full() -> bool:
        return fake.open == 2

    await eventually_async(full)
    for _ in range(10):
        pace.release()
    for responses in await asyncio.wait_for(asyncio.gather(*asking), 5):
        assert [values(r.outputs[0])[0] for r in responses if r.outputs] == [0, 1, 2, 3, 4]
    assert fake.most_open == 2


async def test_who_leaves_while_waiting_for_a_place_leaves_it_to_the_next() -> None:
    may_end = asyncio.Event()

    async def slow(request: InferRequest) -> AsyncIterator[InferResponse]:
        await may_end.wait()
        yield InferResponse([numbers("OUT", *values(request.inputs[0]))])

    fake = Fake(config("slow", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), slow)
    model = ensemble(ensemble_config(*X_TO_Y, step("slow", {"IN": "X"}, {"OUT": "Y"}), max_inflight_requests=1), fake)
    first, second, third = (asyncio.ensure_future(ask(model, numbers("X", n))) for n in range(3))

    async def begun() -> bool:
        return fake.open == 1

    await eventually_async(begun)
    second.cancel()
    may_end.set()
    assert values((await asyncio.wait_for(third, 5))[0].outputs[0]) == [2]
    await first
    assert second.cancelled()


async def test_a_place_is_free_with_the_last_answer_though_nobody_reads_it() -> None:
    fake = mapping("m", lambda n: n)
    model = ensemble(ensemble_config(*X_TO_Y, step("m", {"IN": "X"}, {"OUT": "Y"}), max_inflight_requests=1), fake)
    slow_reader = model.infer(InferRequest("ens", [numbers("X", 1)]))
    (response,) = await asyncio.wait_for(ask(model, numbers("X", 2)), 5)
    assert values(response.outputs[0]) == [2]
    await slow_reader.aclose()
