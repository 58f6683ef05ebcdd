"""HTTP requests whose answers of real Triton are kept in `http_cases.json`: what is sent, by name, in order.

`python -m tests.conformance.http_cases HOST:PORT FILE` asks a server over the conformance model repository and writes
what it answers.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

D = list(range(16))
INTEGERS = struct.pack("<16i", *D)
SHARED = Path("/dev/shm/tritium_conformance")


@dataclass(frozen=True)
class Case:
    """One request; `body` None for none."""

    name: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def ask(host: str, port: int, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Send a request over a connection of its own: status, header fields, body."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.putrequest(case.method, case.path, skip_accept_encoding=True)
        for name, value in case.headers.items():
            connection.putheader(name, value)
        if "Transfer-Encoding" not in case.headers and (case.body is not None or case.method == "POST"):
            connection.putheader("Content-Length", str(len(case.body or b"")))
        connection.endheaders(case.body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def cases() -> Iterator[Case]:
    """Every request, each with a name of its own."""
    yield from _bodies()
    yield from _fields()
    yield from _elements()
    yield from _parameters()
    yield from _binary()
    yield from _classification()
    yield from _compression()
    yield from _generate()
    yield from _paths()
    yield from _logging()
    yield from _tracing()
    yield from _memory()


def prepare() -> None:
    """What the requests need beside the server."""
    SHARED.write_bytes(bytes(range(256)) * 32)


def _bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else json.dumps(body).encode()


def _infer(name: str, body: Any, model: str = "simple", **headers: str) -> Case:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(f"infer {name}", "POST", f"/v2/models/{model}/infer", fields, _bytes(body))


def _tensor(name: str = "INPUT0", datatype: str = "INT32", shape: Any = (1, 16), **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **fields}


A, B = _tensor(data=D), _tensor("INPUT1", data=D)


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
        yield _infer(f"body {text!a}", text)
    yield _infer("body that is no UTF-8", b'{"id":"\xff\xfe","inputs":[]}')


def _fields() -> Iterator[Case]:
    """Members of the wrong type, or that do not fit the model."""
    of_input: dict[str, Any] = {
        "datatype that is another": _tensor(datatype="FP32", data=D),
        "datatype that is none": _tensor(datatype="FOO", data=D),
        "datatype a number": _tensor(datatype=5, data=D),  # type: ignore[arg-type]
        "shape too small": _tensor(shape=[1, 8], data=D[:8]),
        "shape without batch": _tensor(shape=[16], data=D),
        "shape too deep": _tensor(shape=[1, 16, 1], data=D),
        "shape empty": _tensor(shape=[], data=[1]),
        "shape of another batch": _tensor(shape=[2, 16], data=D + D),
        "shape negative": _tensor(shape=[-1, 16], data=D),
        "shape a text": _tensor(shape="x", data=D),
        "shape of reals": _tensor(shape=[1.0, 16], data=D),
        "shape of texts": _tensor(shape=["1", 16], data=D),
        "data too few": _tensor(data=D[:5]),
        "data too many": _tensor(data=D + D),
        "data empty": _tensor(data=[]),
        "data missing": _tensor(),
        "data a text": _tensor(data="abc"),
        "data an object": _tensor(data={}),
        "data a number": _tensor(data=5),
        "data null": _tensor(data=None),
        "name a number": _tensor(5, data=D),  # type: ignore[arg-type]
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
        yield _infer(f"input: {name}", {"inputs": [tensor, B]})
    of_body: dict[str, Any] = {
        "one input missing": {"inputs": [A]},
        "the other input missing": {"inputs": [B]},
        "no inputs": {"inputs": []},
        "an id and an input missing": {"id": "my", "inputs": [A]},
        "an unknown input beside": {"inputs": [A, _tensor("X", data=D)]},
        "an unknown input alone": {"inputs": [_tensor("X", data=D)]},
        "an input twice": {"inputs": [A, A]},
        "an input twice, all there": {"inputs": [A, A, B]},
        "a batch of nine": {"inputs": [_tensor(shape=[9, 16], data=D * 9), _tensor("INPUT1", shape=[9, 16],
        data=D * 9)]},
        "a batch of none": {"inputs": [_tensor(shape=[0, 16], data=[]), _tensor("INPUT1", shape=[0, 16], data=[])]},
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
        yield _infer(name, body)
    one = _tensor(datatype="FP32", shape=[1, 4], data=[1, 2, 3, 4])
    for model in ("nope", "broken_init", "broken_cfg", "repeat_int32", "gen_stream", "cached_fp32", "warm_fp32"):
        yield _infer(f"of {model}", {"inputs": [one]}, model)
    for version in ("1", "9", "0", "00001", "99999999999999999999"):
        yield _infer(f"of version {version}", {"inputs": [A, B]}, f"simple/versions/{version}")
    for name, ensemble in {"": {}, " with an id": {"id": "7", "parameters": {"sequence_id": 5, "x": 1}}}.items():
        yield _infer(
            f"of an ensemble{name}",
            {**ensemble, "inputs": [_tensor("A", data=D), _tensor("B", data=D)]},
            "ens_addsub_double",
        )
    yield _infer("of an ensemble, an input missing", {"inputs": [_tensor("A", data=D)]}, "ens_addsub_double")
    for kind in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99):
        yield _infer(
            f"of a model that fails by {kind}",
            {"inputs": [_tensor(datatype="FP32", shape=[1, 4], data=[kind, 0, 0, 0])]},
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
            body = {"inputs": [_tensor(f"IN_{name}", datatype, [len(data)], data=data)]}
            yield _infer(f"{datatype} {json.dumps(data)}", body, "all_types")
    shapes: dict[str, Any] = {
        "of no inputs": [],
        "unknown": [_tensor("NOPE", "BYTES", [1], data=["5"])],
        "too deep": [_tensor("IN_INT8", "INT8", [2, 1], data=[1, 1])],
        "scalar": [_tensor("IN_INT8", "INT8", [], data=[1])],
        "scalar, empty": [_tensor("IN_INT8", "INT8", [], data=[])],
        "empty": [_tensor("IN_INT8", "INT8", [0], data=[])],
        "several": [_tensor("IN_INT8", "INT8", [1], data=[1]), _tensor("IN_FP64", "FP64", [1], data=[1])],
    }
    for name, inputs in shapes.items():
        yield _infer(f"shape {name}", {"inputs": inputs}, "all_types")
    yield _infer("texts too few", {"inputs": [_tensor("INPUT0", "BYTES", [1, 2], data=["a"])]}, "identity_bytes")
    yield _infer("texts too many", {"inputs": [_tensor("INPUT0", "BYTES", [1, 1], data=["a", "b"])]}, "identity_bytes")
    yield _infer("texts none", {"inputs": [_tensor("INPUT0", "BYTES", [1, 0], data=[])]}, "identity_bytes")
    yield _infer(
        "texts nested", {"inputs": [_tensor("INPUT0", "BYTES", [1, 2], data=[["a"], ["b"]])]}, "identity_bytes"
    )
    yield _infer("too few dimensions", {"inputs": [_tensor(shape=[2], data=[1, 2])]}, "identity_nobatch")
    yield _infer(
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
        body = {"parameters": parameters, "inputs": [_tensor("X", shape=[1], data=[1])]}
        yield _infer(f"parameters {json.dumps(parameters)[:60]}", body, "params_echo")
    for wrong in ("x", [], None, 5):
        yield _infer(f"parameters {wrong!r}", {"parameters": wrong, "inputs": [A, B]})
    yield _infer("an id that is told", {"id": "é", "inputs": [_tensor("X", shape=[1], data=[1])]}, "params_echo")
    sequences: dict[str, Any] = {
        "no id": ({}, 1), "id 0": ({"sequence_id": 0, "sequence_start": True}, 1), "no start": ({"sequence_id": 3}, 1),
        "no start, a text": ({"sequence_id": "abc"}, 1),
        "a batch of two": ({"sequence_id": 5, "sequence_start": True}, 2),
        "begun and ended": ({"sequence_id": 9, "sequence_start": True, "sequence_end": True}, 1),
    }  # fmt: skip
    for name, (parameters, rows) in sequences.items():
        body = {"parameters": parameters, "inputs": [_tensor("INPUT", shape=[rows, 1], data=[4] * rows)]}
        yield _infer(f"sequence: {name}", body, "seq_accumulate")
    for parameters in ({"priority": 9}, {"priority": 1, "timeout": 5000000}):
        body = {"parameters": parameters, "inputs": [_tensor("DELAY_MS", shape=[1, 1], data=[1])]}
        yield _infer(f"queue policy {parameters}", body, "queue_policy")


def _binary_body(name: str, head: Any, *blobs: bytes, model: str, length: Any = None, **headers: str) -> Case:
    text = _bytes(head)
    length = str(len(text) if length is None else length)
    return _infer(name, text + b"".join(blobs), model, Inference_Header_Content_Length=length, **headers)


def _sized(
    size: Any, shape: Any = (1, 1), datatype: str = "BYTES", name: str = "INPUT0", **fields: Any
) -> dict[str, Any]:
    return _tensor(name, datatype, shape, parameters={"binary_data_size": size}, **fields)


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
    yield _infer("binary without a header length", _bytes({"inputs": [_sized(7)]}) + _text(b"abc"), "identity_bytes")
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
        yield _infer(f"raw {len(body)} bytes for {model}", body, model, Inference_Header_Content_Length="0")


def _classification() -> Iterator[Case]:
    values: dict[str, list[Any]] = {
        "BOOL": [True, False], "UINT8": [1, 3, 2], "INT8": [-1, 3, 2], "UINT16": [1, 65535, 2], "INT16": [1, -9, 2],
        "UINT32": [1, 2**32 - 1, 2], "INT64": [2**62, -(2**63), 5], "UINT64": [2**64 - 1, 1, 2], "FP32": [0.1, 2.5, -1],
        "FP64": [0.1, 1e3, -5.5],
    }  # fmt: skip
    for datatype, data in values.items():
        body = {
            "inputs": [_tensor(f"IN_{datatype}", datatype, [len(data)], data=data)],
            "outputs": [{"name": f"OUT_{datatype}", "parameters": {"classification": 2}}],
        }
        yield _infer(f"classes of {datatype}", body, "all_types")
    for classes in (0, 1, 100, "2", -1, 1.5):
        outputs = [{"name": "OUTPUT0", "parameters": {"classification": classes}}, {"name": "OUTPUT1"}]
        yield _infer(f"classes {classes!r}", {"inputs": [A, B], "outputs": outputs})
    one = [{"name": "OUTPUT0", "parameters": {"classification": 4}}]
    rows = _tensor("INPUT0", "FP32", [2, 4], data=[1.5, -2, 1e30, 0.1, 1, 1, 1, 1])
    yield _infer("classes of two rows", {"inputs": [rows], "outputs": one}, "identity_fp32")
    yield _infer(
        "classes without a batch",
        {"inputs": [_tensor(shape=[2, 2], data=[1, 4, 3, 2])], "outputs": one},
        "identity_nobatch",
    )


def _compression() -> Iterator[Case]:
    body = _bytes({"inputs": [A, B]})
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
        yield _infer(f"compressed: {name}", data, Content_Encoding=encoding)
    head = _bytes({"inputs": [_sized(64, [1, 16], "INT32"), B]})
    for length in (len(head), 100000):
        yield _infer(
            f"compressed, header length {length}", gzip.compress(head + INTEGERS, mtime=0), Content_Encoding="gzip",
            Inference_Header_Content_Length=str(length),
        )  # fmt: skip
    for accepted in (
        "gzip", "deflate", "gzip, deflate", "deflate, gzip", "*", "identity", "br", "gzip;q=0", "x-gzip", "GZIP",
        " gzip",
        "gzip;q=0.5, deflate;q=0.9", "identity, gzip", "br;q=1, gzip;q=0.1", "identity;q=0.5, gzip;q=0.2",
    ):  # fmt: skip
        yield _infer(f"answers may be {accepted}", body, Accept_Encoding=accepted)
    yield _infer("errors are not compressed", "{}", Accept_Encoding="gzip")
    everything = {"parameters": {"binary_data_output": True}, "inputs": [A, B]}
    yield _infer("binary answers are compressed", everything, Accept_Encoding="gzip")
    pieces = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (50, body[:50], len(body) - 50, body[50:])
    yield _infer("a body in chunks", pieces, Transfer_Encoding="chunked")
    text = b'{"text_input":"hi"}'
    yield Case("generate compressed", "POST", _GENERATE, {"Content-Encoding": "gzip"}, gzip.compress(text, mtime=0))
    yield Case("generate, a header length", "POST", _GENERATE, {"Inference-Header-Content-Length": "5"}, text)


_GENERATE = "/v2/models/gen_plain/generate"


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
        yield Case(f"generate {_bytes(body)[:70]!r}", "POST", _GENERATE, {}, _bytes(body))
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
        name = f"generate {model} {index}: {_bytes(body)[:60]!r}"
        yield Case(name, "POST", f"/v2/models/{model}/generate", {}, _bytes(body))
    streams: list[tuple[str, Any]] = [
        ("gen_plain", "[]"), ("gen_plain", {"text_input": "a\nb\r\n\ndata: x"}), ("gen_plain", {"text_inpu": "x"}),
        ("repeat_int32", {"IN": [], "DELAY": [], "WAIT": 0}), ("fail_exec", {"INPUT0": [6, 0, 0, 0]}),
        ("gen_plain", b'{"text_input":"\xff\xfe"}'), ("ens_stream", {"text_input": "a b", "stream": True}),
    ]  # fmt: skip
    for model, body in streams:
        name = f"generate_stream {model} {_bytes(body)[:60]!r}"
        yield Case(name, "POST", f"/v2/models/{model}/generate_stream", {}, _bytes(body))


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
        yield Case(f"{path} {index}: {_bytes(value)[:50]!r}", "POST", path, {}, _bytes(value))
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
        yield Case(f"register {_bytes(body)!r}", "POST", f"{system}/region/r/register", {}, _bytes(body))
    place = _bytes({"key": key, "byte_size": 512})
    yield Case("register a region", "POST", f"{system}/region/r1/register", {}, place)
    yield Case("register it again", "POST", f"{system}/region/r1/register", {}, place)
    for path in ("status", "region/r1/status", "region/r2/status"):
        yield Case(f"{path} of regions", "GET", f"{system}/{path}")
    yield Case("status of a CUDA region", "GET", "/v2/cudasharedmemory/region/r1/status")
    yield Case("status of no CUDA region", "GET", "/v2/cudasharedmemory/region/x/status")
    handle = {"raw_handle": {"b64": "YWJj"}, "device_id": 0, "byte_size": 64}
    for body in (handle, {}, "", {**handle, "raw_handle": "x"}, {**handle, "device_id": "0"}, {"raw_handle": {}}):
        yield Case(f"CUDA {_bytes(body)!r}", "POST", "/v2/cudasharedmemory/region/c/register", {}, _bytes(body))

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
        body = {"inputs": [_tensor(parameters=parameters), B]}
        yield _infer(f"input at {json.dumps(parameters)}", body)
    yield _infer("input in memory and in JSON", {"inputs": [_tensor(parameters=place_of("r1", 64), data=D), B]})
    outputs: list[dict[str, Any]] = [
        place_of("r1", 64, 256), place_of("r1", 100, 256), place_of("r1", 60, 256), place_of("r1", 64, 500),
        place_of("zz", 64), {"shared_memory_region": "r1"}, place_of("r1", "64"),
        {**place_of("r1", 64, 256), "binary_data": True}, {**place_of("r1", 64, 256), "classification": 2},
    ]  # fmt: skip
    for parameters in outputs:
        body = {"inputs": [A, B], "outputs": [{"name": "OUTPUT0", "parameters": parameters}, {"name": "OUTPUT1"}]}
        yield _infer(f"output at {json.dumps(parameters)}", body)
    yield Case("unregister a region", "POST", f"{system}/region/r1/unregister")
    yield Case("unregister it again", "POST", f"{system}/region/r1/unregister")
    yield Case("unregister all", "POST", f"{system}/unregister")
    yield Case("status in the end", "GET", f"{system}/status")


def _main() -> None:
    host, _, port = sys.argv[1].partition(":")
    prepare()
    answers = []
    for case in cases():
        status, headers, body = ask(host, int(port), case)
        kept = {
            name: headers[name] for name in ("content-encoding", "inference-header-content-length") if name in headers
        }
        answers.append(
            {
                "name": case.name,
                "status": status,
                "headers": kept,
                "body": base64.b64encode(body).decode(),
            }
        )
    lines = ",\n".join(json.dumps(answer) for answer in answers)
    Path(sys.argv[2]).write_text(f"[\n{lines}\n]\n")
    SHARED.unlink()


if __name__ == "__main__":
    _main()
