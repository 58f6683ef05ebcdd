"""What is asked over HTTP to learn what is looked at first, what is not looked at, and where numbers end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conformance.http_requests import GENERATE, INTEGERS, A, B, Case, D, infer_case, tensor_of, to_bytes

SYSTEM = "/v2/systemsharedmemory"


def edge_cases(shared: Path) -> Iterator[Case]:
    """`shared` is a file of shared memory."""
    yield from _inputs()
    yield from _texts()
    yield from _compression()
    yield from _generate()
    yield from _settings()
    yield from _memory(f"/{shared.name}")


def _inputs() -> Iterator[Case]:
    nothing: list[tuple[str, str, dict[str, Any]]] = [
        ("data that is null", "identity_nobatch", tensor_of(shape=[0, 2], data=None)),
        ("data that is too much", "identity_fp32", tensor_of(datatype="FP32", shape=[3, 0], data=[1, "x"])),
        ("a text too many", "identity_bytes", tensor_of(datatype="BYTES", shape=[2, 0], data=["x"])),
        ("a datatype that is none", "identity_bytes", tensor_of(datatype="STRING", shape=[2, 0], data=[])),
        ("halves", "all_types", tensor_of("IN_FP16", "FP16", [0], data=[])),
        ("a shape that does not fit", "cached_fp32", tensor_of(datatype="FP32", shape=[1, 0], data=[1, 2, 3, 4])),
        ("no shape", "identity_nobatch", tensor_of(shape=[], data=[1, 2])),
    ]
    for name, model, tensor in nothing:
        yield infer_case(f"nothing expected: {name}", {"inputs": [tensor]}, model)
    for data in ([*D, "x"], [*D[:15], "x", 16], [*D[:15], [["x"]]]):
        yield infer_case(f"data {json.dumps(data[13:])}", {"inputs": [tensor_of(data=data), B]})
    for datatype in ("int32", "INVALID", "STRING", ""):
        sized = tensor_of(datatype=datatype, parameters={"binary_data_size": 64})
        text = to_bytes({"inputs": [sized, B]})
        yield infer_case(
            f"binary data of datatype {datatype!r}", text + INTEGERS, Inference_Header_Content_Length=str(len(text))
        )
    yield infer_case("an end after a byte order mark", '\ufeff{"inputs":[]}x')


def _texts() -> Iterator[Case]:
    """Texts that are no Unicode, which no model here looks at."""
    tensor = json.dumps(tensor_of(datatype="FP32", shape=[1, 1], data=[1])).encode()
    for text in (b"\xff", b"\xed\xa0\x80", b"\\ude00", b"a\\ud83d"):
        for member in (b'"id":"%b"', b'"parameters":{"a":"%b"}', b'"parameters":{"%b":1}'):
            said = member % text
            yield infer_case(f"text {said!r}", b'{%b,"inputs":[%b]}' % (said, tensor), "identity_fp32")
        yield infer_case(f"text {text!r} and an end", b'{"a":"%b" 1}' % text)


def _compression() -> Iterator[Case]:
    yield infer_case("an encoding without a name", {"inputs": [A, B]}, Content_Encoding="")
    yield Case(
        "generate, an encoding without a name", "POST", GENERATE, {"Content-Encoding": ""}, b'{"text_input":"x"}'
    )


def _generate() -> Iterator[Case]:
    asked: list[tuple[str, Any]] = [
        ("gen_plain", {"text_input": [1, 2]}), ("gen_plain", {"text_input": ["a", 2]}),
        ("gen_plain", {"max_tokens": ["x", 2], "text_input": "x"}),
        ("simple", {"INPUT0": ["x"], "INPUT1": D}), ("simple", {"INPUT0": [*D[:15], [15, "x"]], "INPUT1": D}),
        ("all_types", {"IN_INT64": [[1, ["x"]]]}),
    ]  # fmt: skip
    for model, body in asked:
        text = to_bytes(body)
        yield Case(f"generate order {model} {text.decode()}", "POST", f"/v2/models/{model}/generate", {}, text)


def _settings() -> Iterator[Case]:
    defaults = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))
    values: list[dict[str, Any]] = [
        {"trace_level": ["OFF", 1]}, {"trace_level": [1, "OFF"]}, {"trace_level": ["TENSORS"], "trace_rate": "0"},
        {"trace_level": ["FOO"], "trace_rate": "0"}, {"trace_level": ["TIMESTAMPS"], "trace_rate": None},
    ]  # fmt: skip
    for name in ("trace_rate", "trace_count", "log_frequency"):
        values += [{name: text} for text in ("2147483647", "2147483648", "4294967295", "-2147483648", "-2147483649")]
    for value in [*values, defaults]:
        yield Case(f"trace {json.dumps(value)}", "POST", "/v2/trace/setting", {}, to_bytes(value))
    for level in (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**64 - 1, 0):
        body = to_bytes({"log_verbose_level": level})
        yield Case(f"verbose level {level}", "POST", "/v2/logging", {}, body)
    for action in ("load", "unload"):
        path = f"/v2/repository/models/simple/{action}"
        for parameters in ({"x": "1"}, {"x": 1}, {"config": 1}, {"config": "{}"}, {"file:1/model.py": "!"}, [], None):
            text = to_bytes({"parameters": parameters})
            yield Case(f"{action} with {text.decode()}", "POST", path, {}, text)


def _memory(key: str) -> Iterator[Case]:
    bodies: list[dict[str, Any]] = [
        {"key": key, "offset": [None]}, {"key": f"/{key}", "byte_size": 8193}, {"key": f"{key}/", "byte_size": 1},
        {"key": f"//{key}", "byte_size": 512},
    ]  # fmt: skip
    for body in bodies:
        yield Case(f"register e1 {json.dumps(body)}", "POST", f"{SYSTEM}/region/e1/register", {}, to_bytes(body))
    yield Case("status of e1", "GET", f"{SYSTEM}/region/e1/status")
    yield from _places("input", _PLACES)
    yield from _places("output", [*_PLACES, *_ALONE])
    yield Case("unregister e1", "POST", f"{SYSTEM}/unregister")


def _place(**fields: Any) -> dict[str, Any]:
    return {f"shared_memory_{name}": value for name, value in fields.items()}


_PLACES: list[dict[str, Any]] = [
    _place(region=None), _place(region=None, offset="x"), _place(offset="x"), _place(byte_size=None),
    _place(offset=None, byte_size="x"), _place(offset=-1), _place(byte_size=64), _place(region="e1"),
    _place(region="e1", offset=64), _place(region="e1", offset=64, byte_size=0),
    _place(region="e1", offset=448, byte_size=64), _place(region="e1", offset=448, byte_size=65),
    _place(region="e1", offset=512, byte_size=0), _place(region="", byte_size=64),
]  # fmt: skip
_ALONE: list[dict[str, Any]] = [
    _place(offset="x") | {"binary_data": None}, _place(offset="x") | {"classification": "x"},
    _place(region=None) | {"classification": False}, _place(region=5) | {"binary_data": "x"},
    _place(region="e1", byte_size=64) | {"binary_data": False},
    _place(region="e1", byte_size=64) | {"binary_data": False, "classification": 0},
    _place(region="e1", offset=None) | {"binary_data": True},
]  # fmt: skip


def _places(kind: str, places: list[dict[str, Any]]) -> Iterator[Case]:
    for place in places:
        inputs: list[dict[str, Any]] = [A, B]
        outputs = [{"name": "OUTPUT1"}]
        if kind == "input":
            inputs[0] = tensor_of(parameters=place) if "shared_memory_region" in place else {**A, "parameters": place}
        else:
            outputs.append({"name": "OUTPUT0", "parameters": place})
        yield infer_case(f"{kind} at the edge: {json.dumps(place)}", {"inputs": inputs, "outputs": outputs})
