"""The official HTTP client of Triton against a whole server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, shared_memory

from tests.clients.tensors import inputs_of
from tests.servers import Tritium

RAMP = np.arange(16, dtype=np.int32).reshape(1, 16)


@pytest.fixture
def client(tensor_server: Tritium) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{tensor_server.http_port}", concurrency=4) as open_client:
        yield open_client


@pytest.mark.parametrize("is_binary", [True, False])
def test_an_inference_by_arrays(client: triton.InferenceServerClient, is_binary: bool) -> None:
    inputs = inputs_of(triton, INPUT0=RAMP, INPUT1=RAMP)
    for tensor in inputs:
        tensor.set_data_from_numpy(RAMP, binary_data=is_binary)
    outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=is_binary)]
    result = client.infer("simple", inputs, outputs=outputs, request_id="mine")
    assert (result.as_numpy("OUTPUT0") == 2 * RAMP).all()
    assert result.get_response()["id"] == "mine"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(client: triton.InferenceServerClient, algorithm: str) -> None:
    result = client.infer(
        "simple",
        inputs_of(triton, INPUT0=RAMP, INPUT1=RAMP),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert (result.as_numpy("OUTPUT1") == 0).all()


def test_asynchronous_requests_and_sixteen_megabytes(client: triton.InferenceServerClient) -> None:
    large = np.arange(4 << 20, dtype=np.float32).reshape(1, -1)
    pending = [client.async_infer("identity_fp32", inputs_of(triton, INPUT0=large)) for _ in range(2)]
    for each in pending:
        assert (each.get_result().as_numpy("OUTPUT0") == large).all()


def test_the_server_tells_of_itself_and_of_errors(client: triton.InferenceServerClient) -> None:
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.get_model_config("simple")["max_batch_size"] == 8
    assert client.get_inference_statistics("simple")["model_stats"][0]["name"] == "simple"
    with pytest.raises(InferenceServerException, match="is not found"):
        client.infer("nope", inputs_of(triton, INPUT0=RAMP))


def test_tensors_in_shared_memory(client: triton.InferenceServerClient) -> None:
    size = RAMP.nbytes
    region = shared_memory.create_shared_memory_region("http", "/tritium_test_http", 2 * size)
    try:
        shared_memory.set_shared_memory_region(region, [RAMP])
        client.register_system_shared_memory("http", "/tritium_test_http", 2 * size)
        inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for tensor in inputs:
            tensor.set_shared_memory("http", size)
        output = triton.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory("http", size, offset=size)
        client.infer("simple", inputs, outputs=[output])
        assert (shared_memory.get_contents_as_numpy(region, np.int32, (1, 16), offset=size) == 2 * RAMP).all()
    finally:
        client.unregister_system_shared_memory("http")
        shared_memory.destroy_shared_memory_region(region)
