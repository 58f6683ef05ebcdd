"""The official gRPC client of Triton against a whole server, and its helpers for shared memory."""

from __future__ import annotations

import queue
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, shared_memory

from tests.clients.tensors import inputs_of, repeat_inputs
from tests.servers import Tritium

RAMP = np.arange(16, dtype=np.int32).reshape(1, 16)
COUNTED = 'nv_inference_count{model="simple",version="1"} '
ONES = np.ones((1, 16), dtype=np.int32)


@pytest.fixture
def client(tensor_server: Tritium) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{tensor_server.grpc_port}") as open_client:
        yield open_client


def addsub() -> list[triton.InferInput]:
    return inputs_of(triton, INPUT0=RAMP, INPUT1=ONES)


class Answers:
    """What a stream's callback is called with."""

    def __init__(self) -> None:
        self._found: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __call__(self, result: Any, error: Any) -> None:
        self._found.put((result, error))

    def result(self) -> Any:
        result, error = self._found.get(timeout=10)
        assert error is None, error
        return result

    def error(self) -> InferenceServerException:
        _, error = self._found.get(timeout=10)
        assert isinstance(error, InferenceServerException)
        return error


def test_the_server_and_its_models_tell_of_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert not client.is_model_ready("simple", "9")
    assert client.get_model_metadata("simple", as_json=True)["inputs"][0]["shape"] == ["-1", "16"]
    assert client.get_model_config("simple").config.max_batch_size == 8
    index = client.get_model_repository_index(as_json=True)["models"]
    assert {"name": "simple", "version": "1", "state": "READY"} in index


def test_an_inference_by_arrays_is_counted(client: triton.InferenceServerClient) -> None:
    def count() -> int:
        statistics = client.get_inference_statistics("simple")
        return int(statistics.model_stats[0].inference_count)

    before = count()
    result = client.infer("simple", addsub(), request_id="mine")
    assert (result.as_numpy("OUTPUT0") == RAMP + 1).all()
    assert (result.as_numpy("OUTPUT1") == RAMP - 1).all()
    assert result.get_response().id == "mine"
    assert count() == before + 1


def test_outputs_can_be_chosen_and_classified(client: triton.InferenceServerClient) -> None:
    result = client.infer("simple", addsub(), outputs=[triton.InferRequestedOutput("OUTPUT0", class_count=2)])
    assert result.as_numpy("OUTPUT0").tolist() == [[b"16:15:label15", b"15:14:label14"]]
    assert result.as_numpy("OUTPUT1") is None


def test_texts_go_there_and_back(client: triton.InferenceServerClient) -> None:
    texts = np.array([["zwölf".encode(), b"", bytes(range(256))]], dtype=np.object_)
    result = client.infer("identity_bytes", inputs_of(triton, INPUT0=texts))
    assert result.as_numpy("OUTPUT0").tolist() == texts.tolist()


def test_sixteen_megabytes_go_there_and_back(client: triton.InferenceServerClient) -> None:
    large = np.arange(4 << 20, dtype=np.float32).reshape(1, -1)
    result = client.infer("identity_fp32", inputs_of(triton, INPUT0=large))
    assert (result.as_numpy("OUTPUT0") == large).all()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client: triton.InferenceServerClient, algorithm: str) -> None:
    result = client.infer("simple", addsub(), compression_algorithm=algorithm)
    assert (result.as_numpy("OUTPUT0") == RAMP + 1).all()


def test_many_asynchronous_requests_are_answered(client: triton.InferenceServerClient) -> None:
    answers = Answers()
    for _ in range(50):
        client.async_infer("simple", addsub(), callback=answers)
    for _ in range(50):
        assert (answers.result().as_numpy("OUTPUT0") == RAMP + 1).all()


def test_errors_are_the_client_s_exceptions(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nope", addsub())
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    assert caught.value.message() == "Request for unknown model: 'nope' is not found"


def test_a_timeout_of_the_client_is_told_as_one(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        client.infer("queue_policy", inputs_of(triton, DELAY_MS=np.array([[700]], np.int32)), client_timeout=0.2)


def test_a_request_can_be_cancelled(client: triton.InferenceServerClient) -> None:
    answers = Answers()
    delay = inputs_of(triton, DELAY_MS=np.array([[500]], np.int32))
    client.async_infer("queue_policy", delay, callback=answers).cancel()
    assert answers.error().status() == "StatusCode.CANCELLED"


def test_a_decoupled_model_answers_on_a_stream_as_often_as_it_likes(client: triton.InferenceServerClient) -> None:
    answers = Answers()
    client.start_stream(callback=answers)
    client.async_stream_infer("repeat_int32", repeat_inputs(triton, 3, 4, 5), enable_empty_final_response=True)
    found = [answers.result() for _ in range(4)]
    assert [int(result.as_numpy("OUT")[0]) for result in found[:3]] == [3, 4, 5]
    finals = [result.get_response().parameters["triton_final_response"].bool_param for result in found]
    assert finals == [False, False, False, True]
    client.stop_stream()


def test_a_stream_goes_on_after_an_error(client: triton.InferenceServerClient) -> None:
    answers = Answers()
    client.start_stream(callback=answers)
    client.async_stream_infer("nope", addsub())
    assert answers.error().message() == "Request for unknown model: 'nope' is not found"
    client.async_stream_infer("simple", addsub())
    assert (answers.result().as_numpy("OUTPUT0") == RAMP + 1).all()
    client.stop_stream()


def test_sequences_are_kept_apart_on_one_stream(client: triton.InferenceServerClient) -> None:
    answers = Answers()
    client.start_stream(callback=answers)
    for step in range(3):
        for sequence in (101, 102):
            value = np.array([[sequence + step]], np.int32)
            client.async_stream_infer(
                "seq_accumulate",
                inputs_of(triton, INPUT=value),
                request_id=f"{sequence}-{step}",
                sequence_id=sequence,
                sequence_start=step == 0,
                sequence_end=step == 2,
            )
    found = {}
    for _ in range(6):
        result = answers.result()
        found[result.get_response().id] = int(result.as_numpy("OUTPUT")[0, 0])
    client.stop_stream()
    assert found == {f"{s}-{n}": sum(s + step for step in range(n + 1)) for s in (101, 102) for n in range(3)}


def test_tensors_in_shared_memory_are_read_and_written_there(client: triton.InferenceServerClient) -> None:
    size = RAMP.nbytes
    region = shared_memory.create_shared_memory_region("both", "/tritium_test_both", 4 * size)
    try:
        shared_memory.set_shared_memory_region(region, [RAMP, ONES])
        client.register_system_shared_memory("both", "/tritium_test_both", 4 * size)
        assert "both" in client.get_system_shared_memory_status(as_json=True)["regions"]
        inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        outputs = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
        for number, tensor in enumerate((*inputs, *outputs)):
            tensor.set_shared_memory("both", size, offset=number * size)
        result = client.infer("simple", inputs, outputs=outputs)
        told = result.get_output("OUTPUT0")
        assert (list(told.shape), dict(told.parameters)) == ([1, 16], {})
        for number, expected in ((2, RAMP + 1), (3, RAMP - 1)):
            found = shared_memory.get_contents_as_numpy(region, np.int32, (1, 16), offset=number * size)
            assert (found == expected).all()
        client.unregister_system_shared_memory("both")
        assert client.get_system_shared_memory_status(as_json=True) == {}
    finally:
        client.unregister_system_shared_memory("both")
        shared_memory.destroy_shared_memory_region(region)


def test_settings_of_logs_and_traces_are_told_and_changed(client: triton.InferenceServerClient) -> None:
    assert client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]["log_verbose_level"] == {
        "uint32_param": 1
    }
    client.update_log_settings({"log_verbose_level": 0})
    traced = client.update_trace_settings("simple", {"trace_rate": "500"}, as_json=True)
    assert traced["settings"]["trace_rate"] == {"value": ["500"]}
    client.update_trace_settings("simple", {"trace_rate": None})
    assert client.get_trace_settings("simple", as_json=True)["settings"]["trace_rate"] == {"value": ["1000"]}


def test_inferences_are_told_by_triton_s_metrics(client: triton.InferenceServerClient, tensor_server: Tritium) -> None:
    def count() -> float:
        with urllib.request.urlopen(f"{tensor_server.metrics_url}/metrics") as page:
            lines = page.read().decode().splitlines()
        assert any(line.startswith("nv_cpu_utilization ") for line in lines)
        return float(next(line for line in lines if line.startswith(COUNTED)).rpartition(" ")[2])

    before = count()
    client.infer("simple", addsub())
    assert count() == before + 1
