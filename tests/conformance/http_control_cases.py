"""What is asked over HTTP beside inference, and of generate: paths, configurations, settings, shared memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conformance.http_requests import GENERATE, A, B, Case, D, infer_case, tensor_of, to_bytes

SHARED = Path("/dev/shm/tritium_conformance")


def control_cases() -> Iterator[Case]:
    yield from _generate()
    yield from _paths()
    yield from _logging()
    yield from _tracing()
    yield from _memory()


def _generate() -> Iterator[Case]:
    plain: list[Any] = [
        "[]", '"x"', "null", {"text_input": [["hi"]]}, {"text_input": [["hi", "yo"]]}, {"text_input": []},
        {"text_input": None}, {"text_input": {}}, {"text_input": "x", "stream": "yes"},
        {"text_input": "x", "stream": 1},
        {"text_input": "x", "max_tokens": "5"}, {"text_input": "x", "max_tokens": 5.5},
        {"text_input": "x", "parameters": 5},
        {"text_input": "x", "parameters": []}, {"text_input": "x", "parameters": None},
        {"parameters": {"text_input": "p"}},
        {"text_input": "a", "parameters": {"text_input": "p"}}, {"parameters": {"text_input": "p"}, "text_input": "a"},
        {"text_input": "x", "parameters": {"sequence_id": 5, "priority": 2, "timeout": 100,
        "binary_data_output": True}},
        {"text_input": "x", "sequence_id": 5, "timeout": 1000000}, {"text_input": "x", "parameters": {"id": "q"}},
        {"id": "", "text_input": "x"}, {"id": None, "text_input": "x"}, {"text_input": "x", "t": 1.0, "v": -5},
        {"text_input": "x", "model_name": "q"}, {"text_input": "x", "outputs": []}, {"text_input": "x", "inputs": "a"},
        {"text_input": "x", "parameters": {"parameters": {"a": 1}}}, {"text_input": "x", "parameters": {"triton_x": 1}},
    ]  # fmt: skip
    for body in plain:
        yield Case(f"generate {to_bytes(body)[:70]!r}", "POST", GENERATE, {}, to_bytes(body))
    others: list[tuple[str, Any]] = [
        ("all_types", {"IN_FP16": [1.5]}), ("all_types", {"IN_BOOL": [True, False], "IN_UINT8": [1, 300]}),
        ("all_types", {"IN_UINT64": 2**64 - 1, "IN_FP64": 0.1, "IN_STRING": ["a", "é"]}),
        ("all_types", {"IN_UINT8": -1}),
        ("all_types", {}), ("all_types", {"IN_INT32": []}), ("all_types", {"IN_INT32": [[1, 2], [3]]}),
        ("simple", {"INPUT0": D, "INPUT1": D}), ("simple", {"INPUT0": [D, D], "INPUT1": [D, D]}),
        ("simple", {"INPUT0": D + D, "INPUT1": D + D}), ("simple", {"INPUT0": D[:8], "INPUT1": D}),
        ("simple", {"INPUT0": D}), ("identity_nobatch", {"INPUT0": [1, 2, 3]}),
        ("identity_nobatch", {"INPUT0": [[1, 2]]}),
        ("identity_fp32", {"INPUT0": 1}), ("identity_fp32", {"INPUT0": []}), ("fail_exec", {"INPUT0": [4, 0, 0, 0]}),
        ("repeat_int32", {"IN": [4], "DELAY": [1], "WAIT": 0}),
        ("repeat_int32", {"IN": [4, 2], "DELAY": [1, 1], "WAIT": 0}),
        ("seq_accumulate", {"INPUT": [1]}), ("params_echo", {"X": 1, "a": {"b": 1}}),
        ("params_echo", {"X": 1, "id": "z"}),
        ("ens_addsub_double", {"A": D, "B": D}), ("batch_probe", {"X": [1, 2, 3, 4]}),
    ]  # fmt: skip
    for index, (model, body) in enumerate(others):
        name = f"generate {model} {index}: {to_bytes(body)[:60]!r}"
        yield Case(name, "POST", f"/v2/models/{model}/generate", {}, to_bytes(body))
    streams: list[tuple[str, Any]] = [
        ("gen_plain", "[]"), ("gen_plain", {"text_input": "a\nb\r\n\ndata: x"}), ("gen_plain", {"text_inpu": "x"}),
        ("repeat_int32", {"IN": [], "DELAY": [], "WAIT": 0}), ("fail_exec", {"INPUT0": [6, 0, 0, 0]}),
        ("gen_plain", b'{"text_input":"\xff\xfe"}'), ("ens_stream", {"text_input": "a b", "stream": True}),
    ]  # fmt: skip
    for model, body in streams:
        name = f"generate_stream {model} {to_bytes(body)[:60]!r}"
        yield Case(name, "POST", f"/v2/models/{model}/generate_stream", {}, to_bytes(body))


def _paths() -> Iterator[Case]:
    paths = """
        GET /v2/models/nope/config|GET /v2/models/broken_init/config|GET /v2/models/nope/stats|GET /v2?x
        GET /v2/models/simple/versions/7/stats|GET /v2/models/broken_init/stats|GET /v2/models/nope/trace/setting
        GET /v2/systemsharedmemory|GET /v2/systemsharedmemory/region/x|GET /v2/systemsharedmemory/foo|GET /v2/repository
        GET /v2/systemsharedmemory/unregister|POST /v2/systemsharedmemory/status|POST /v2/systemsharedmemory/register
        GET /v2/systemsharedmemory/region/x/register|POST /v2/cudasharedmemory/register
        POST /v2/repository/models/simple
        POST /v2/repository/models/simple/foo|POST /v2/repository/x/y/index|POST /v2/repository/models/load|PUT /
        POST /nope
        GET /v2/models/simple/versions/1/infer/x|POST /v2/models/simple/infer/|GET /v2/models/simple/versions//ready
        GET /v2/models/simple/versions/1/ready/|GET //v2|GET /V2|GET /v2/models/stats/ready
        GET /v2/models/stats/versions/1
        GET /v2/models/simple/versions/1/trace/setting|POST /v2/models/a%2Fb/infer|DELETE /v2/models/simple|HEAD /nope
        PATCH /v2/models/simple/infer|OPTIONS /v2/models/simple/infer|HEAD /v2/models/simple/ready|GET /v2/health/live/
        GET /v2/health/live?x=1|GET /v2/models/simple/versions/00001|GET /v2/models/simple/versions/99999999999999999999
        GET /v2/models/simple/versions/99999999999999999999/ready
        GET /v2/models/simple/versions/99999999999999999999/stats
        GET /v2/models/simple/versions/1/stats/|GET /v2/models/simple/generate_stream|HEAD /v2/models/simple/infer
        GET /metrics|GET /v2/metrics|GET /v2/models/simple/metrics|GET /v3|GET /v2/load|GET /v2/cudasharedmemory/status
    """
    for line in paths.replace("|", "\n").strip().splitlines():
        method, path = line.split()
        yield Case(f"{method} {path}", method, path)
    for model in (
        "simple",
        "all_types",
        "seq_accumulate",
        "queue_policy",
        "batch_probe",
        "auto_complete",
        "gen_stream",
    ):
        yield Case(f"configuration of {model}", "GET", f"/v2/models/{model}/config")
    for model in ("cached_fp32", "warm_fp32", "params_echo", "ens_addsub_double", "ens_stream", "versioned_latest"):
        yield Case(f"configuration of {model}", "GET", f"/v2/models/{model}/config")


def _settings(path: str, values: list[Any]) -> Iterator[Case]:
    for index, value in enumerate(values):
        yield Case(f"{path} {index}: {to_bytes(value)[:50]!r}", "POST", path, {}, to_bytes(value))
    yield Case(f"{path} in the end", "GET", path)


def _logging() -> Iterator[Case]:
    values: list[Any] = [
        "", {}, "[]", "{x", '"x"', {"log_info": False}, {"log_info": True}, {"log_info": "x"}, {"log_info": None},
        {"log_warning": False, "log_error": True}, {"log_verbose_level": 2}, {"log_verbose_level": -1},
        {"log_verbose_level": "1"}, {"log_verbose_level": 1.5}, {"log_verbose_level": 2**40}, {"log_verbose_level": 0},
        {"log_format": "ISO8601"}, {"log_format": "default"}, {"log_format": "x"}, {"log_format": 1}, {"log_file": "x"},
        {"log_file": ""}, {"unknown": 1}, {"log_format": "ISO8601", "log_verbose_level": "x"}, {"log_warning": True},
    ]  # fmt: skip
    yield from _settings("/v2/logging", values)


def _tracing() -> Iterator[Case]:
    values: list[Any] = [
        "", {}, "[]", "{x", {"trace_level": ["TIMESTAMPS"]}, {"trace_level": "TIMESTAMPS"}, {"trace_level": ["FOO"]},
        {"trace_level": []}, {"trace_level": None}, {"trace_level": [1]}, {"trace_rate": "500"}, {"trace_rate": 500},
        {"trace_rate": "x"}, {"trace_rate": "-1"}, {"trace_rate": None}, {"trace_rate": ""}, {"trace_rate": "1.5"},
        {"trace_rate": "99999999999999"}, {"trace_count": "5"}, {"trace_count": "-2"}, {"trace_count": "x"},
        {"trace_count": 5}, {"trace_count": None}, {"log_frequency": "7"}, {"log_frequency": "x"},
        {"log_frequency": None},
        {"trace_file": "x"}, {"trace_file": None}, {"trace_mode": "opentelemetry"}, {"trace_rate": "1", "unknown": "x"},
        {"trace_level": ["OFF", "TIMESTAMPS"]}, {"trace_level": ["OFF"]},
    ]  # fmt: skip
    yield from _settings("/v2/trace/setting", values)
    yield from _settings("/v2/models/simple/trace/setting", [{"trace_rate": "5"}, {"trace_count": "-2"}])
    yield from _settings("/v2/models/broken_init/trace/setting", [{}])
    yield Case("the server's rate again", "POST", "/v2/trace/setting", {}, b'{"trace_rate":"7"}')
    yield Case("a model's own rate stays", "GET", "/v2/models/simple/trace/setting")
    yield Case("a model's rate no more", "POST", "/v2/models/simple/trace/setting", {}, b'{"trace_rate":null}')
    yield Case("the default rate again", "POST", "/v2/trace/setting", {}, b'{"trace_rate":null}')
    yield Case("trace of a model after all", "GET", "/v2/models/simple/trace/setting")


def _memory() -> Iterator[Case]:
    key = f"/{SHARED.name}"
    system = "/v2/systemsharedmemory"
    bodies: list[Any] = [
        {"key": key}, {"byte_size": 1}, {"key": 1, "byte_size": 1}, {"key": key, "byte_size": "1"},
        {"key": key, "byte_size": -1}, {"key": key, "byte_size": 1, "offset": "x"}, "", "{x", "[]",
        {"key": "/tritium_nothing", "byte_size": 512}, {"key": "/../etc/passwd", "byte_size": 1},
    ]  # fmt: skip
    for body in bodies:
        yield Case(f"register {to_bytes(body)!r}", "POST", f"{system}/region/r/register", {}, to_bytes(body))
    place = to_bytes({"key": key, "byte_size": 512})
    yield Case("register a region", "POST", f"{system}/region/r1/register", {}, place)
    yield Case("register it again", "POST", f"{system}/region/r1/register", {}, place)
    for path in ("status", "region/r1/status", "region/r2/status"):
        yield Case(f"{path} of regions", "GET", f"{system}/{path}")
    yield Case("status of a CUDA region", "GET", "/v2/cudasharedmemory/region/r1/status")
    yield Case("status of no CUDA region", "GET", "/v2/cudasharedmemory/region/x/status")
    handle = {"raw_handle": {"b64": "YWJj"}, "device_id": 0, "byte_size": 64}
    for body in (handle, {}, "", {**handle, "raw_handle": "x"}, {**handle, "device_id": "0"}, {"raw_handle": {}}):
        yield Case(f"CUDA {to_bytes(body)!r}", "POST", "/v2/cudasharedmemory/region/c/register", {}, to_bytes(body))

    def place_of(region: Any, size: Any, offset: Any = None) -> dict[str, Any]:
        offsets = {} if offset is None else {"shared_memory_offset": offset}
        return {"shared_memory_region": region, "shared_memory_byte_size": size, **offsets}

    inputs: list[dict[str, Any]] = [
        place_of("r1", 64), place_of("r1", 64, 64), place_of("r1", 513), place_of("r1", 64, 512), place_of("r1", 60),
        place_of("zz", 64), place_of("r1", "64"), {"shared_memory_region": "r1"}, place_of("r1", 64, "1"),
        place_of("r1", 64, -1), place_of(5, 64), {**place_of("r1", 64), "binary_data_size": 64}, place_of("r1", 0),
        {"shared_memory_byte_size": 64},
    ]  # fmt: skip
    for parameters in inputs:
        body = {"inputs": [tensor_of(parameters=parameters), B]}
        yield infer_case(f"input at {json.dumps(parameters)}", body)
    yield infer_case("input in memory and in JSON", {"inputs": [tensor_of(parameters=place_of("r1", 64), data=D), B]})
    outputs: list[dict[str, Any]] = [
        place_of("r1", 64, 256), place_of("r1", 100, 256), place_of("r1", 60, 256), place_of("r1", 64, 500),
        place_of("zz", 64), {"shared_memory_region": "r1"}, place_of("r1", "64"),
        {**place_of("r1", 64, 256), "binary_data": True}, {**place_of("r1", 64, 256), "classification": 2},
    ]  # fmt: skip
    for parameters in outputs:
        body = {"inputs": [A, B], "outputs": [{"name": "OUTPUT0", "parameters": parameters}, {"name": "OUTPUT1"}]}
        yield infer_case(f"output at {json.dumps(parameters)}", body)
    yield Case("unregister a region", "POST", f"{system}/region/r1/unregister")
    yield Case("unregister it again", "POST", f"{system}/region/r1/unregister")
    yield Case("unregister all", "POST", f"{system}/unregister")
    yield Case("status in the end", "GET", f"{system}/status")
