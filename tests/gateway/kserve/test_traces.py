"""Traces: which requests have one, what it says, into which files it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from backends.config import ModelConfig
from backends.tensors import Tensor
from gateway.kserve import trace_settings
from gateway.kserve.dataplane import DataPlane
from gateway.kserve.shared_state import SharedState
from gateway.kserve.traces import UNTRACED, NoTracer, Traced, Tracer, tracer
from tests.conformance.grpc_requests import addsub
from tests.gateway.kserve.grpc_server import serving_grpc
from tests.gateway.kserve.http_client import SIMPLE, Client
from tests.gateway.kserve.http_server import listening
from tests.gateway.kserve.tensor_models import plane_of

SERVICE = "/inference.GRPCInferenceService"
ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
BOTH = ["TIMESTAMPS", "TENSORS"]
MODEL = ModelConfig("m", "python", version=3)


def state_of(folder: Path, **settings: Any) -> SharedState:
    return SharedState(folder / "kserve.json", {**ON, "trace_file": str(folder / "trace.json"), **settings})


def begin(found: Tracer | NoTracer, model: ModelConfig = MODEL) -> Traced:
    return found.begin(model, "HTTP_RECV", "HTTP_SEND", 5.0)


def run(found: Tracer | NoTracer, times: int = 1, model: ModelConfig = MODEL) -> int:
    """How many of so many requests are traced."""
    traced = [begin(found, model) for _ in range(times)]
    for request in traced:
        request.end()
    return sum(request.inner is not None for request in traced)


def read(path: Path) -> list[dict[str, Any]]:
    return [dict(event) for event in json.loads(path.read_text())]


def activities(events: list[dict[str, Any]], id: int = 1) -> list[str]:
    return [event["timestamps"][0]["name"] for event in events if event["id"] == id and "timestamps" in event]


def test_where_no_file_is_named_nothing_is_traced_and_nothing_kept() -> None:
    found = tracer(SharedState())
    assert (found.is_on, begin(found)) == (False, UNTRACED)
    UNTRACED.answering()
    UNTRACED.end()
    found.close()


def test_a_trace_says_when_what_began(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path))
    assert found.is_on
    traced = begin(found)
    assert traced.inner is not None
    traced.inner.worked(6, 7, 8)
    traced.answering()
    traced.answering()
    traced.end()
    traced.end()
    found.close()
    head, *events = read(tmp_path / "trace.json")
    assert head == {"id": 1, "model_name": "m", "model_version": 3}
    assert activities(events) == [
        *("HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START"),
        *("QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"),
        *("REQUEST_END", "INFER_RESPONSE_COMPLETE", "HTTP_SEND_START", "HTTP_SEND_END"),
    ]
    assert events[0]["timestamps"][0]["ns"] == 5_000_000_000
    assert [event["timestamps"][0]["ns"] for event in events[3:8]] == [6, 7, 7, 8, 8]


def test_what_never_ran_has_no_computation_and_what_failed_no_answer(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path))
    traced = begin(found)
    assert traced.inner is not None
    traced.inner.worked(6, 0, 8)
    traced.end()
    found.close()
    assert activities(read(tmp_path / "trace.json"))[3:] == ["QUEUE_START", "REQUEST_END"]


def test_steps_of_an_ensemble_are_traces_of_their_own_under_its(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path))
    traced = begin(found)
    assert traced.inner is not None
    step = traced.inner.child(ModelConfig("step", "python"))
    step.worked(1, 2, 3)
    step.finish()
    traced.inner.finish()
    traced.end()
    found.close()
    events = read(tmp_path / "trace.json")
    assert {"id": 2, "model_name": "step", "model_version": 1, "parent_id": 1} in events
    assert activities(events, 2)[0] == "REQUEST_START"


def test_tensors_stand_between_waiting_and_computing_in_triton_s_order(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path, trace_level=BOTH))
    traced = begin(found)
    assert traced.inner is not None
    traced.inner.queued([Tensor("IN", "INT32", (1,), b"\1\0\0\0")])
    traced.inner.worked(6, 7, 8)
    traced.inner.answered([Tensor("OUT", "BYTES", (1,), b"\2\0\0\0ab")])
    traced.answering()
    traced.end()
    found.close()
    names = [
        event["activity"] if "activity" in event else event["timestamps"][0]["name"]
        for event in read(tmp_path / "trace.json")[1:]
    ]
    assert names[3:8] == [
        *("QUEUE_START", "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_OUTPUT", "COMPUTE_START", "COMPUTE_INPUT_END")
    ]


def test_where_tensors_alone_are_wanted_there_are_no_times_and_where_times_are_no_tensors(tmp_path: Path) -> None:
    for number, level in enumerate(("TENSORS", "TIMESTAMPS")):
        found = tracer(state_of(tmp_path, trace_level=[level], trace_file=str(tmp_path / f"{number}")))
        assert found.is_on
        traced = begin(found)
        assert traced.inner is not None
        traced.inner.child(ModelConfig("step", "python")).queued([Tensor("step", "BOOL", (1,), b"\1")])
        traced.inner.queued([Tensor("IN", "BOOL", (1,), b"\1")])
        traced.end()
        found.close()
    assert [event["tensor"]["name"] for event in read(tmp_path / "0")] == ["IN"]
    assert not any("tensor" in event for event in read(tmp_path / "1"))


def test_a_trace_holds_so_much_of_its_tensors_and_no_more(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path, trace_level=["TENSORS"]))
    traced = begin(found)
    assert traced.inner is not None
    large = Tensor("large", "UINT8", (60_000,), bytes(60_000))
    traced.inner.queued([large])
    traced.inner.answered([large, large])
    traced.end()
    found.close()
    counts = [event["tensor"]["data"].count("0") for event in read(tmp_path / "trace.json")]
    assert counts == [60_000, 5_536, 0]


def test_a_file_is_written_before_tensors_fill_the_memory(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path, trace_level=["TENSORS"]))
    text = Tensor("text", "BYTES", (1,), (60_000).to_bytes(4, "little") + b"\xff" * 60_000)
    for _ in range(70):
        traced = begin(found)
        assert traced.inner is not None
        traced.inner.queued([text])
        traced.end()
    assert len(read(tmp_path / "trace.json")) == 70


@pytest.mark.parametrize(("rate", "expected"), [("1", 6), ("2", 3), ("4", 1), ("0", 6)])
def test_one_request_in_so_many_is_traced(tmp_path: Path, rate: str, expected: int) -> None:
    assert run(tracer(state_of(tmp_path, trace_rate=rate)), 6) == expected


def test_so_many_are_traced_by_all_server_processes_and_no_more(tmp_path: Path) -> None:
    state = state_of(tmp_path, trace_count="3")
    first, second = tracer(state), tracer(state_of(tmp_path, trace_count="3"))
    assert (run(first, 2), run(second, 2), run(first)) == (2, 1, 0)
    assert trace_settings.settings_of(state)["trace_count"] == "0"


def test_a_model_may_be_traced_otherwise_than_the_others(tmp_path: Path) -> None:
    state = state_of(tmp_path, trace_level=["OFF"])
    found = tracer(state)
    assert not found.is_on
    assert run(found) == 0
    trace_settings.apply(state, "m", {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "1"})
    assert found.is_on
    assert run(found, 6) == 1
    assert run(found, 2, ModelConfig("other", "python")) == 0
    assert trace_settings.settings_of(state)["trace_count"] == "-1"


def test_a_file_is_written_after_so_many_traces_and_the_rest_at_the_end(tmp_path: Path) -> None:
    found = tracer(state_of(tmp_path, log_frequency="2"))
    run(found, 3)
    assert sorted(path.name for path in tmp_path.glob("trace*")) == ["trace.json.0"]
    found.close()
    found.close()
    assert sorted(path.name for path in tmp_path.glob("trace*")) == ["trace.json.0", "trace.json.1"]
    assert {event["id"] for event in read(tmp_path / "trace.json.1")} == {3}


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    for name in ("trace.json", "trace.json.0"):
        (tmp_path / name).write_text("of another process")
    found = tracer(state_of(tmp_path))
    run(found)
    found.close()
    assert (tmp_path / "trace.json").read_text() == "of another process"
    assert read(tmp_path / "trace.json.1")[0]["id"] == 1


async def test_a_request_over_http_is_traced_whichever_way_it_comes(tmp_path: Path) -> None:
    plane, _, _ = plane_of()
    dataplane = DataPlane(plane.registry, state_of(tmp_path))
    async with listening(plane, dataplane) as port:
        client = Client(port)
        assert (await client.ask("/v2/models/simple/infer", SIMPLE))[0] == 200
        assert (await client.ask("/v2/models/simple/infer", {"inputs": []}))[0] == 400
        assert (await client.ask("/v2/models/identity/generate", {"INPUT0": [1.5]}))[0] == 200
    dataplane.tracer.close()
    events = read(tmp_path / "trace.json")
    whole = ["HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START"]
    answered = ["REQUEST_END", "INFER_RESPONSE_COMPLETE", "HTTP_SEND_START", "HTTP_SEND_END"]
    assert [activities(events, number) for number in (1, 2, 3)] == [
        [*whole, *answered],
        [*whole, "REQUEST_END"],
        [*whole, *answered],
    ]


async def test_the_tensors_of_a_request_are_those_of_its_model(tmp_path: Path) -> None:
    plane, _, _ = plane_of()
    dataplane = DataPlane(plane.registry, state_of(tmp_path, trace_level=["TENSORS"]))
    async with listening(plane, dataplane) as port:
        client = Client(port)
        wanted = {**SIMPLE, "outputs": [{"name": "OUTPUT1", "parameters": {"classification": 1}}]}
        assert (await client.ask("/v2/models/simple/infer", wanted))[0] == 200
        assert (await client.ask("/v2/models/identity/generate", {"INPUT0": [1.5]}))[0] == 200
    dataplane.tracer.close()
    events = read(tmp_path / "trace.json")
    assert [(event["activity"], event["tensor"]["name"], event["tensor"]["dtype"]) for event in events] == [
        ("TENSOR_QUEUE_INPUT", "INPUT0", "INT32"),
        ("TENSOR_QUEUE_INPUT", "INPUT1", "INT32"),
        ("TENSOR_BACKEND_OUTPUT", "OUTPUT1", "INT32"),
        ("TENSOR_QUEUE_INPUT", "INPUT0", "FP32"),
        ("TENSOR_BACKEND_OUTPUT", "OUTPUT0", "FP32"),
    ]


async def test_a_request_over_grpc_is_traced_alone_or_in_a_stream(tmp_path: Path) -> None:
    plane, _, _ = plane_of()
    dataplane = DataPlane(plane.registry, state_of(tmp_path))
    async with (
        serving_grpc(plane, dataplane) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        body = addsub().SerializeToString()
        await channel.unary_unary(f"{SERVICE}/ModelInfer")(body)
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"{SERVICE}/ModelInfer")(addsub(rows=9).SerializeToString())
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")()
        await stream.write(body)
        await stream.read()
        await stream.done_writing()
        await stream.code()
    dataplane.tracer.close()
    events = read(tmp_path / "trace.json")
    whole = ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "REQUEST_START"]
    assert [activities(events, number) for number in (1, 2, 3)] == [
        [*whole, "REQUEST_END", "INFER_RESPONSE_COMPLETE", "GRPC_SEND_START", "GRPC_SEND_END"],
        [*whole, "REQUEST_END"],
        [*whole, "REQUEST_END"],
    ]
