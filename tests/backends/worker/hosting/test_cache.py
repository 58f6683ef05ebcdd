"""The response cache: what counts as the same question, what is given up, what is never kept."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.statistics import Duration
from backends.tensors import Tensor
from backends.worker.frames import heads
from backends.worker.hosting.cache import Cache, key_of
from backends.worker.messages import Infer, Respond, Scalar, TensorHead
from backends.worker.options import Options
from tests.backends.worker.hosts import STEADY, answer, connected, host, request, statistics_of, values

A = Tensor("A", "INT32", (1,), b"\1\0\0\0")
B = Tensor("B", "INT32", (1,), b"\2\0\0\0")
OUTPUTS = [TensorHead("Y", "INT32", (1,), 4)]


def key(*inputs: Tensor, outputs: tuple[str, ...] = (), priority: int = 0, **parameters: Scalar) -> bytes:
    infer = Infer(1, "m", 1, "id", heads(inputs), list(outputs), parameters, priority)
    return key_of(infer, inputs)


def test_the_same_question_has_one_key_whatever_its_order_id_and_priority() -> None:
    assert key(A, B, outputs=("X", "Y")) == key(B, A, outputs=("Y", "X"), priority=2)


@pytest.mark.parametrize(
    "other",
    [
        key(A),
        key(A, replace(B, data=b"\3\0\0\0")),
        key(A, replace(B, name="C")),
        key(A, replace(B, datatype="UINT32")),
        key(A, replace(B, shape=(1, 1))),
        key(A, B, outputs=("Y",)),
        key(A, B, temperature=1),
    ],
)
def test_what_differs_in_a_name_a_byte_or_a_parameter_has_another_key(other: bytes) -> None:
    assert other != key(A, B)


def test_the_least_recently_used_answer_is_given_up() -> None:
    cache = Cache(2 * (512 + 100))
    for name in (b"one", b"two"):
        cache.insert(name, Respond(1, OUTPUTS), bytes(100))
    assert cache.find(b"one") is not None
    cache.insert(b"three", Respond(1, OUTPUTS), memoryview(bytes(100)))
    assert cache.find(b"two") is None
    assert cache.find(b"one") is not None
    assert cache.find(b"three") is not None
    assert (len(cache), cache.evictions, cache.used_bytes) == (2, 1, 2 * (512 + 100))


def test_an_answer_larger_than_the_cache_is_not_kept_and_nothing_is_given_up_for_it() -> None:
    cache = Cache(1000)
    cache.insert(b"small", Respond(1, OUTPUTS), bytes(100))
    cache.insert(b"large", Respond(1, OUTPUTS), bytes(1000))
    assert cache.find(b"large") is None
    assert cache.find(b"small") is not None


def test_a_kept_answer_does_not_change_with_the_buffer_it_came_in() -> None:
    cache = Cache(1000)
    buffer = bytearray(4)
    cache.insert(b"key", Respond(1, OUTPUTS), memoryview(buffer))
    buffer[0] = 1
    found = cache.find(b"key")
    assert found is not None
    assert found.payload == bytes(4)


async def test_hits_are_answered_without_an_execution_and_counted_as_triton_does(tmp_path: Path) -> None:
    options = Options(cache_bytes=100_000, has_quantiles=True)
    with host(tmp_path, STEADY, options, response_cache={"enable": True}) as running:
        async with connected(running) as model:
            for number in (1, 1, 1, 2):
                response = await answer(model, request([number]))
                assert values(response) == [[2 * number]]
            (failed,) = [await answer(model, request([3], fail=True))]
            assert failed.error is not None
            assert (await answer(model, request([3], fail=True))).error is not None
            told = await statistics_of(model, lambda told: told.execution_count == 4)
            stats = told.inference_stats
            assert (stats.cache_hit.count, stats.cache_miss.count) == (2, 4)
            assert stats.cache_hit.ns > 0
            assert stats.cache_miss.ns > 0
            assert (stats.success.count, stats.queue.count, stats.compute_infer.count) == (6, 6, 4)
            assert told.inference_count == 4
            assert (told.cache.entries, told.cache.evictions, told.cache.size_bytes) == (2, 0, 100_000)
            assert (told.cache.lookup.count, told.cache.insertion.count) == (6, 2)
            assert 0 < told.cache.used_bytes < 2000
            assert told.recent is not None
            remembered = {
                event: sum(sum(slot.values()) for slot in recent.slots.values())
                for event, recent in told.recent.items()
            }
            executed = dict.fromkeys(("compute_input", "compute_infer", "compute_output"), 4)
            assert remembered == {**executed, "success": 6, "queue": 6, "cache_hit": 2, "cache_miss": 2}
            (longest_ns,) = told.recent["success"].quantiles([1.0], time.monotonic_ns())
            assert stats.success.ns / 6 < 1.01 * longest_ns < 1.03 * stats.success.ns


@pytest.mark.slow
async def test_without_a_cache_every_request_is_executed(tmp_path: Path) -> None:
    with host(tmp_path, STEADY, Options(cache_bytes=0), response_cache={"enable": True}) as running:
        async with connected(running) as model:
            first = await answer(model, request([1], pid=True))
            assert values(first) == values(await answer(model, request([1], pid=True)))
            told = await statistics_of(model, lambda told: told.execution_count == 2)
            assert told.inference_stats.cache_miss == Duration()
            assert np.array(values(first)).shape == (1, 1)
