"""Inferences over HTTP: bodies, fields, elements, parameters, binary data, classes, compression."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from tests.conformance.http_requests import GENERATE, INTEGERS, A, B, Case, D, infer_case, tensor_of, to_bytes


def tensor_cases() -> Iterator[Case]:
    yield from _bodies()
    yield from _fields()
    yield from _elements()
    yield from _parameters()
    yield from _binary()
    yield from _classification()
    yield from _compression()


def _bodies() -> Iterator[Case]:
    """JSON that is none, or is not what a request looks like."""
    texts = [
        "", "  ", "{", "[", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', "[1,]", "[1 2]", '{"a" 1}', "tru", "NaN",
        "-", "01", "1.", "1.x", "1e", "1e+", "1e400", '"abc', '"a\\x"', '"a\\u12"', '"a\\ud800"', '"\x01"', "{1:2}",
        "}",
        '{"inputs":tru}', '{"inputs":[1,}', "\ufeff{}", "{}{}", "/*x*/{}", '{"a":Inf}', '{"a":Infinit}', '{"a":+1}',
        '{"a":.5}', '{"a":0x1}', "{'a':1}", '{"a":1}\x00', "\x00", '{"a":nan}', '{"a":None}', '{"a":1.0e}',
        '{"a": - 1}',
        "{,}", "[,]", '{"é":}', "[]", '"x"', "5", "null", "true", "{}",
    ]  # fmt: skip
    for text in texts:
        yield infer_case(f"body {text!a}", text)
    yield infer_case("body that is no UTF-8", b'{"id":"\xff\xfe","inputs":[]}')


def _fields() -> Iterator[Case]:
    """Members of the wrong type, or that do not fit the model."""
    of_input: dict[str, Any] = {
        "datatype that is another": tensor_of(datatype="FP32", data=D),
        "datatype that is none": tensor_of(datatype="FOO", data=D),
        "datatype a number": tensor_of(datatype=5, data=D),  # type: ignore[arg-type]
        "shape too small": tensor_of(shape=[1, 8], data=D[:8]),
        "shape without batch": tensor_of(shape=[16], data=D),
        "shape too deep": tensor_of(shape=[1, 16, 1], data=D),
        "shape empty": tensor_of(shape=[], data=[1]),
        "shape of another batch": tensor_of(shape=[2, 16], data=D + D),
        "shape negative": tensor_of(shape=[-1, 16], data=D),
        "shape a text": tensor_of(shape="x", data=D),
        "shape of reals": tensor_of(shape=[1.0, 16], data=D),
        "shape of texts": tensor_of(shape=["1", 16], data=D),
        "data too few": tensor_of(data=D[:5]),
        "data too many": tensor_of(data=D + D),
        "data empty": tensor_of(data=[]),
        "data missing": tensor_of(),
        "data a text": tensor_of(data="abc"),
        "data an object": tensor_of(data={}),
        "data a number": tensor_of(data=5),
        "data null": tensor_of(data=None),
        "name a number": tensor_of(5, data=D),  # type: ignore[arg-type]
        "name missing": {"datatype": "INT32", "shape": [1, 16], "data": D},
        "datatype missing": {"name": "INPUT0", "shape": [1, 16], "data": D},
        "shape missing": {"name": "INPUT0", "datatype": "INT32", "data": D},
        "a text": "a",
        "a null": None,
        "a number": 5,
        "parameters a text": {**A, "parameters": "x"},
        "parameters unknown": {**A, "parameters": {"foo": 1}},
    }
    for name, tensor in of_input.items():
        yield infer_case(f"input: {name}", {"inputs": [tensor, B]})
    of_body: dict[str, Any] = {
        "one input missing": {"inputs": [A]},
        "the other input missing": {"inputs": [B]},
        "no inputs": {"inputs": []},
        "an id and an input missing": {"id": "my", "inputs": [A]},
        "an unknown input beside": {"inputs": [A, tensor_of("X", data=D)]},
        "an unknown input alone": {"inputs": [tensor_of("X", data=D)]},
        "an input twice": {"inputs": [A, A]},
        "an input twice, all there": {"inputs": [A, A, B]},
        "a batch of nine": {"inputs": [tensor_of(shape=[9, 16], data=D * 9), tensor_of("INPUT1", shape=[9, 16],
        data=D * 9)]},
        "a batch of none": {"inputs": [tensor_of(shape=[0, 16], data=[]), tensor_of("INPUT1", shape=[0, 16], data=[])]},
        "inputs an object": {"inputs": {}},
        "inputs a text": {"inputs": "a"},
        "inputs null": {"inputs": None},
        "an unknown output": {"inputs": [A, B], "outputs": [{"name": "NOPE"}]},
        "an unknown output, an input missing": {"inputs": [A], "outputs": [{"name": "NOPE"}]},
        "an output twice": {"inputs": [A, B], "outputs": [{"name": "OUTPUT0"}, {"name": "OUTPUT0"}]},
        "outputs a text": {"inputs": [A, B], "outputs": "x"},
        "outputs an object": {"inputs": [A, B], "outputs": {}},
        "outputs null": {"inputs": [A, B], "outputs": None},
        "an output a text": {"inputs": [A, B], "outputs": ["x"]},
        "an output without name": {"inputs": [A, B], "outputs": [{}]},
        "an output's name a number": {"inputs": [A, B], "outputs": [{"name": 4}]},
        "an output's parameters a text": {"inputs": [A, B], "outputs": [{"name": "OUTPUT0", "parameters": "x"}]},
        "an output's parameters unknown": {"inputs": [A, B], "outputs": [{"name": "OUTPUT0",
        "parameters": {"foo": 2}}]},
        "id a number": {"id": 3, "inputs": [A, B]},
        "id null": {"id": None, "inputs": [A, B]},
        "id a number and no inputs": {"id": 3},
        "parameters a text and no inputs": {"parameters": "x"},
        "outputs a text and no inputs": {"outputs": "x"},
    }  # fmt: skip
    for name, body in of_body.items():
        yield infer_case(name, body)
    one = tensor_of(datatype="FP32", shape=[1, 4], data=[1, 2, 3, 4])
    for model in ("nope", "broken_init", "broken_cfg", "repeat_int32", "gen_stream", "cached_fp32", "warm_fp32"):
        yield infer_case(f"of {model}", {"inputs": [one]}, model)
    for version in ("1", "9", "0", "00001", "99999999999999999999"):
        yield infer_case(f"of version {version}", {"inputs": [A, B]}, f"simple/versions/{version}")
    for name, ensemble in {"": {}, " with an id": {"id": "7", "parameters": {"sequence_id": 5, "x": 1}}}.items():
        yield infer_case(
            f"of an ensemble{name}",
            {**ensemble, "inputs": [tensor_of("A", data=D), tensor_of("B", data=D)]},
            "ens_addsub_double",
        )
    yield infer_case("of an ensemble, an input missing", {"inputs": [tensor_of("A", data=D)]}, "ens_addsub_double")
    for kind in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99):
        yield infer_case(
            f"of a model that fails by {kind}",
            {"inputs": [tensor_of(datatype="FP32", shape=[1, 4], data=[kind, 0, 0, 0])]},
            "fail_exec",
        )


def _elements() -> Iterator[Case]:
    """Data of each type, good and bad."""
    values: dict[str, list[Any]] = {
        "BOOL": [[True, False], [1, 0], ["x"], [None]],
        "UINT8": [[1, 255], [256, 300], [-1], [1.5], [True]],
        "UINT16": [[0, 65535], [65536]],
        "UINT32": [[0, 2**32 - 1], [2**32]],
        "UINT64": [[0, 2**64 - 1], [2**64], [-1]],
        "INT8": [[-128, 127], [300, -129], [1.0], [True], ["a"], [None], [{}]],
        "INT16": [[-32768, 32767], [32768]],
        "INT32": [[-(2**31), 2**31 - 1], [2**31], [2**63], [2**70]],
        "INT64": [[-(2**63), 2**63 - 1], [2**63]],
        "FP16": [[1.5]],
        "BF16": [[1.5]],
        "FP32": [[1, 2.5], [1e300, -1e300], ["x"], [True], [2**64], [0.1, 1e-40, -0.0, 16777217]],
        "FP64": [[0.1, 1e308, 5], ["x"], [None], [5e-324, 1.7976931348623157e308]],
        "BYTES": [["a", "", "é✓"], [5], [None], ["\x00\x1f\u2028", '"\\/'], ["😀"]],
    }
    for datatype, lists in values.items():
        name = "STRING" if datatype == "BYTES" else "BOOL" if datatype == "BF16" else datatype
        for data in lists:
            body = {"inputs": [tensor_of(f"IN_{name}", datatype, [len(data)], data=data)]}
            yield infer_case(f"{datatype} {json.dumps(data)}", body, "all_types")
    shapes: dict[str, Any] = {
        "of no inputs": [],
        "unknown": [tensor_of("NOPE", "BYTES", [1], data=["5"])],
        "too deep": [tensor_of("IN_INT8", "INT8", [2, 1], data=[1, 1])],
        "scalar": [tensor_of("IN_INT8", "INT8", [], data=[1])],
        "scalar, empty": [tensor_of("IN_INT8", "INT8", [], data=[])],
        "empty": [tensor_of("IN_INT8", "INT8", [0], data=[])],
        "several": [tensor_of("IN_INT8", "INT8", [1], data=[1]), tensor_of("IN_FP64", "FP64", [1], data=[1])],
    }
    for name, inputs in shapes.items():
        yield infer_case(f"shape {name}", {"inputs": inputs}, "all_types")
    yield infer_case("texts too few", {"inputs": [tensor_of("INPUT0", "BYTES", [1, 2], data=["a"])]}, "identity_bytes")
    yield infer_case(
        "texts too many", {"inputs": [tensor_of("INPUT0", "BYTES", [1, 1], data=["a", "b"])]}, "identity_bytes"
    )
    yield infer_case("texts none", {"inputs": [tensor_of("INPUT0", "BYTES", [1, 0], data=[])]}, "identity_bytes")
    yield infer_case(
        "texts nested", {"inputs": [tensor_of("INPUT0", "BYTES", [1, 2], data=[["a"], ["b"]])]}, "identity_bytes"
    )
    yield infer_case("too few dimensions", {"inputs": [tensor_of(shape=[2], data=[1, 2])]}, "identity_nobatch")
    yield infer_case(
        "NaN nested",
        '{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,3],"data":[[NaN],[-Infinity,Inf]]}]}',
        "identity_fp32",
    )


def _parameters() -> Iterator[Case]:
    values: list[dict[str, Any]] = [
        {"a": 1, "b": "x", "c": True, "d": 1.5, "e": -1, "f": 2**62}, {"a": 2**63}, {"a": -(2**63) - 1}, {"a": 2**64},
        {"a": None}, {"a": [1]}, {"a": {}}, {"triton_x": 1}, {"headers": 1, "binary_data": True, "classification": 2},
        {"sequence_id": 7}, {"sequence_id": "abc"}, {"sequence_id": ""}, {"sequence_id": "q" * 200},
        {"sequence_id": -1},
        {"sequence_id": 1.5}, {"sequence_id": True}, {"sequence_id": 2**64 - 1}, {"sequence_id": 2**64},
        {"sequence_id": 1, "sequence_start": 1}, {"sequence_id": 1, "sequence_end": "x"},
        {"sequence_id": -1, "priority": "x"}, {"priority": "x", "sequence_id": -1}, {"priority": 1}, {"priority": "1"},
        {"priority": -1}, {"timeout": 1000000}, {"timeout": 0}, {"timeout": 2**64 - 1}, {"timeout": "x"},
        {"timeout": 1.5}, {"binary_data_output": True}, {"binary_data_output": False}, {"binary_data_output": "x"},
    ]  # fmt: skip
    for parameters in values:
        body = {"parameters": parameters, "inputs": [tensor_of("X", shape=[1], data=[1])]}
        yield infer_case(f"parameters {json.dumps(parameters)[:60]}", body, "params_echo")
    for wrong in ("x", [], None, 5):
        yield infer_case(f"parameters {wrong!r}", {"parameters": wrong, "inputs": [A, B]})
    yield infer_case("an id that is told", {"id": "é", "inputs": [tensor_of("X", shape=[1], data=[1])]}, "params_echo")
    sequences: dict[str, Any] = {
        "no id": ({}, 1), "id 0": ({"sequence_id": 0, "sequence_start": True}, 1), "no start": ({"sequence_id": 3}, 1),
        "no start, a text": ({"sequence_id": "abc"}, 1),
        "a batch of two": ({"sequence_id": 5, "sequence_start": True}, 2),
        "begun and ended": ({"sequence_id": 9, "sequence_start": True, "sequence_end": True}, 1),
    }  # fmt: skip
    for name, (parameters, rows) in sequences.items():
        body = {"parameters": parameters, "inputs": [tensor_of("INPUT", shape=[rows, 1], data=[4] * rows)]}
        yield infer_case(f"sequence: {name}", body, "seq_accumulate")
    for parameters in ({"priority": 9}, {"priority": 1, "timeout": 5000000}):
        body = {"parameters": parameters, "inputs": [tensor_of("DELAY_MS", shape=[1, 1], data=[1])]}
        yield infer_case(f"queue policy {parameters}", body, "queue_policy")


def _binary_body(name: str, head: Any, *blobs: bytes, model: str, length: Any = None, **headers: str) -> Case:
    text = to_bytes(head)
    length = str(len(text) if length is None else length)
    return infer_case(name, text + b"".join(blobs), model, Inference_Header_Content_Length=length, **headers)


def _sized(
    size: Any, shape: Any = (1, 1), datatype: str = "BYTES", name: str = "INPUT0", **fields: Any
) -> dict[str, Any]:
    return tensor_of(name, datatype, shape, parameters={"binary_data_size": size}, **fields)


def _text(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _binary() -> Iterator[Case]:
    texts: dict[str, tuple[dict[str, Any], bytes]] = {
        "one": (_sized(7), _text(b"abc")),
        "a length cut off": (_sized(3), b"abc"),
        "two where one is declared": (_sized(14), _text(b"abc") * 2),
        "one where two are declared": (_sized(7, [1, 2]), _text(b"abc")),
        "bytes left over": (_sized(9), _text(b"abc") + b"xx"),
        "a body too short": (_sized(20), _text(b"abc")),
        "a body too long": (_sized(7), _text(b"abc") + b"zzz"),
        "a size below nothing": (_sized(-7), _text(b"abc")),
        "a size that is a text": (_sized("7"), _text(b"abc")),
        "a size that is real": (_sized(7.0), _text(b"abc")),
        "no bytes": (_sized(0), b""),
        "no elements": (_sized(0, [1, 0]), b""),
        "data beside": (_sized(7, data=["x"]), _text(b"abc")),
        "no UTF-8": (_sized(7), _text(b"\xff\xfe\x00")),
    }
    for name, (tensor, blob) in texts.items():
        yield _binary_body(f"binary: {name}", {"inputs": [tensor]}, blob, model="identity_bytes")
    for length in (0, 5, 9999, -1, "x", "78x", "", "99999999999999999999"):
        yield _binary_body(
            f"header length {length!r}", {"inputs": [_sized(7)]}, _text(b"abc"), model="identity_bytes", length=length
        )
    yield infer_case(
        "binary without a header length", to_bytes({"inputs": [_sized(7)]}) + _text(b"abc"), "identity_bytes"
    )
    both = [_sized(64, [1, 16], "INT32"), _sized(64, [1, 16], "INT32", "INPUT1")]
    yield _binary_body("two tensors", {"inputs": both}, INTEGERS, INTEGERS, model="simple")
    short = [_sized(60, [1, 16], "INT32"), both[1]]
    yield _binary_body("a tensor too short", {"inputs": short}, INTEGERS[:60], INTEGERS, model="simple")
    mixed = [both[0], B]
    yield _binary_body("binary and JSON", {"inputs": mixed}, INTEGERS, model="simple")
    wanted: dict[str, Any] = {
        "some": [{"name": "OUTPUT1", "parameters": {"binary_data": True}}, {"name": "OUTPUT0"}],
        "a text": [{"name": "OUTPUT1", "parameters": {"binary_data": "x"}}],
        "classified": [{"name": "OUTPUT0", "parameters": {"binary_data": True, "classification": 2}}],
    }
    for name, outputs in wanted.items():
        yield _binary_body(f"outputs binary: {name}", {"inputs": mixed, "outputs": outputs}, INTEGERS, model="simple")
    named = [{"name": "OUTPUT1", "parameters": {"binary_data": False}}, {"name": "OUTPUT0"}]
    everything = {"parameters": {"binary_data_output": True}, "inputs": mixed}
    yield _binary_body("all outputs binary", everything, INTEGERS, model="simple")
    yield _binary_body("all outputs binary, but named", {**everything, "outputs": named}, INTEGERS, model="simple")
    half = b"\x00\x3c\x00\x40"
    tensor = _sized(4, [2], "FP16", "IN_FP16")
    yield _binary_body("FP16 as JSON", {"inputs": [tensor]}, half, model="all_types")
    as_bytes = [{"name": "OUT_FP16", "parameters": {"binary_data": True}}]
    yield _binary_body("FP16 as bytes", {"inputs": [tensor], "outputs": as_bytes}, half, model="all_types")
    odd = _sized(5, [2], "FP16", "IN_FP16")
    yield _binary_body("FP16 of an odd size", {"inputs": [odd]}, half + b"\x00", model="all_types")
    raw: list[tuple[str, bytes]] = [
        ("simple", INTEGERS), ("identity_fp32", INTEGERS), ("identity_fp32", INTEGERS[:5]), ("identity_fp32", b""),
        ("identity_bytes", b"hello"), ("identity_nobatch", INTEGERS), ("gen_plain", b"hello"),
        ("params_echo", b"\1\0\0\0"), ("cached_fp32", INTEGERS[:16]), ("cached_fp32", INTEGERS),
        ("all_types", INTEGERS),
        ("bls_rag", b"q"), ("auto_complete", INTEGERS[:16]),
    ]  # fmt: skip
    for model, body in raw:
        yield infer_case(f"raw {len(body)} bytes for {model}", body, model, Inference_Header_Content_Length="0")


def _classification() -> Iterator[Case]:
    values: dict[str, list[Any]] = {
        "BOOL": [True, False], "UINT8": [1, 3, 2], "INT8": [-1, 3, 2], "UINT16": [1, 65535, 2], "INT16": [1, -9, 2],
        "UINT32": [1, 2**32 - 1, 2], "INT64": [2**62, -(2**63), 5], "UINT64": [2**64 - 1, 1, 2], "FP32": [0.1, 2.5, -1],
        "FP64": [0.1, 1e3, -5.5],
    }  # fmt: skip
    for datatype, data in values.items():
        body = {
            "inputs": [tensor_of(f"IN_{datatype}", datatype, [len(data)], data=data)],
            "outputs": [{"name": f"OUT_{datatype}", "parameters": {"classification": 2}}],
        }
        yield infer_case(f"classes of {datatype}", body, "all_types")
    for classes in (0, 1, 100, "2", -1, 1.5):
        outputs = [{"name": "OUTPUT0", "parameters": {"classification": classes}}, {"name": "OUTPUT1"}]
        yield infer_case(f"classes {classes!r}", {"inputs": [A, B], "outputs": outputs})
    one = [{"name": "OUTPUT0", "parameters": {"classification": 4}}]
    rows = tensor_of("INPUT0", "FP32", [2, 4], data=[1.5, -2, 1e30, 0.1, 1, 1, 1, 1])
    yield infer_case("classes of two rows", {"inputs": [rows], "outputs": one}, "identity_fp32")
    yield infer_case(
        "classes without a batch",
        {"inputs": [tensor_of(shape=[2, 2], data=[1, 4, 3, 2])], "outputs": one},
        "identity_nobatch",
    )


def _compression() -> Iterator[Case]:
    body = to_bytes({"inputs": [A, B]})
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": (gzip.compress(body, mtime=0), "gzip"), "deflate": (zlib.compress(body), "deflate"),
        "deflate without zlib's head": (raw.compress(body) + raw.flush(), "deflate"),
        "gzip under the name deflate": (gzip.compress(body, mtime=0), "deflate"), "nonsense": (b"nonsense", "gzip"),
        "gzip cut off": (gzip.compress(body, mtime=0)[:-10], "gzip"), "nothing": (b"", "gzip"),
        "none": (body, "identity"),
        "another": (body, "br"), "capitals": (gzip.compress(body, mtime=0), "GZIP"), "two": (body, "gzip, deflate"),
    }  # fmt: skip
    for name, (data, encoding) in packed.items():
        yield infer_case(f"compressed: {name}", data, Content_Encoding=encoding)
    head = to_bytes({"inputs": [_sized(64, [1, 16], "INT32"), B]})
    for length in (len(head), 100000):
        yield infer_case(
            f"compressed, header length {length}", gzip.compress(head + INTEGERS, mtime=0), Content_Encoding="gzip",
            Inference_Header_Content_Length=str(length),
        )  # fmt: skip
    for accepted in (
        "gzip", "deflate", "gzip, deflate", "deflate, gzip", "*", "identity", "br", "gzip;q=0", "x-gzip", "GZIP",
        " gzip",
        "gzip;q=0.5, deflate;q=0.9", "identity, gzip", "br;q=1, gzip;q=0.1", "identity;q=0.5, gzip;q=0.2",
    ):  # fmt: skip
        yield infer_case(f"answers may be {accepted}", body, Accept_Encoding=accepted)
    yield infer_case("errors are not compressed", "{}", Accept_Encoding="gzip")
    everything = {"parameters": {"binary_data_output": True}, "inputs": [A, B]}
    yield infer_case("binary answers are compressed", everything, Accept_Encoding="gzip")
    pieces = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (50, body[:50], len(body) - 50, body[50:])
    yield infer_case("a body in chunks", pieces, Transfer_Encoding="chunked")
    text = b'{"text_input":"hi"}'
    yield Case("generate compressed", "POST", GENERATE, {"Content-Encoding": "gzip"}, gzip.compress(text, mtime=0))
    yield Case("generate, a header length", "POST", GENERATE, {"Inference-Header-Content-Length": "5"}, text)
