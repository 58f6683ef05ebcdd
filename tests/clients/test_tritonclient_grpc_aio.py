"""The official asynchronous gRPC client of Triton against a whole server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from tests.clients.tensors import inputs_of, repeat_inputs
from tests.servers import Tritium

RAMP = np.arange(16, dtype=np.int32).reshape(1, 16)


@pytest.fixture
async def client(tensor_server: Tritium) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(f"127.0.0.1:{tensor_server.grpc_port}") as open_client:
        yield open_client


async def test_many_inferences_at_once(client: triton.InferenceServerClient) -> None:
    inputs = inputs_of(triton, INPUT0=RAMP, INPUT1=RAMP)
    results = await asyncio.gather(*(client.infer("simple", inputs) for _ in range(50)))
    assert all((result.as_numpy("OUTPUT0") == 2 * RAMP).all() for result in results)


async def test_errors_are_the_client_s_exceptions(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="is not found"):
        await client.infer("nope", inputs_of(triton, INPUT0=RAMP))


async def test_responses_of_a_stream_are_iterated_over(client: triton.InferenceServerClient) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for values in ((1, 2), (3,)):
            yield {"model_name": "repeat_int32", "inputs": repeat_inputs(triton, *values)}

    found = []
    async for result, error in client.stream_infer(requests()):
        assert error is None
        found.append(int(result.as_numpy("OUT")[0]))
    assert sorted(found) == [1, 2, 3]


async def test_leaving_a_stream_frees_the_model(client: triton.InferenceServerClient) -> None:
    async def endless() -> AsyncIterator[dict[str, Any]]:
        slow = repeat_inputs(triton, *range(1, 9))
        slow[1].set_data_from_numpy(np.full(8, 100, np.uint32))
        yield {"model_name": "repeat_int32", "inputs": slow}
        await asyncio.Event().wait()

    responses = client.stream_infer(endless())
    await anext(responses)
    responses.cancel()

    async def others() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "simple", "inputs": inputs_of(triton, INPUT0=RAMP, INPUT1=RAMP)}

    async for _, error in client.stream_infer(others()):
        assert error is None
