"""gRPC calls about tensors: datatypes, shapes, contents, outputs, parameters, versions, models."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import service_pb2 as messages

from tests.conformance.grpc_calls import Call
from tests.conformance.grpc_requests import (
    ONES,
    RAMP,
    addsub,
    call,
    floats,
    identity,
    infer,
    ints,
    set_parameters,
    strings,
)

_FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "STRING": "bytes_contents",
}  # fmt: skip
_SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "FP16": [0.5, -1.0, 2.0],
    "FP32": [1.5, -2.25, 3.0],
    "FP64": [1.5, -2.25, 1e300],
    "STRING": [b"a", b"", "zwölf".encode()],
}


def tensor_cases() -> list[Call]:
    return [
        *_datatypes(),
        *_simple(),
        *_shapes(),
        *_contents(),
        *_outputs(),
        *_parameters(),
        *_classification(),
        *_models(),
    ]


def _datatypes() -> Iterator[Call]:
    for name in [*_FORMATS, "STRING"]:
        values = _SAMPLES.get(name, [1, 2, 3])
        datatype = "BYTES" if name == "STRING" else name
        raw = strings(*values) if name == "STRING" else struct.pack(f"<3{_FORMATS[name]}", *values)
        request = infer("all_types", (f"IN_{name}", datatype, (3,), raw))
        request.outputs.add(name=f"OUT_{name}")
        yield call(f"raw {name}", request)
        short = infer("all_types", (f"IN_{name}", datatype, (4,), raw))
        yield call(f"raw {name} of too few bytes", short)
        yield call(f"raw {name} of too many bytes", infer("all_types", (f"IN_{name}", datatype, (2,), raw)))
        yield call(f"raw {name} as another type", infer("all_types", (f"IN_{name}", _other(datatype), (3,), raw)))
        if name not in _FIELDS:
            continue
        typed = infer("all_types", (f"IN_{name}", datatype, (3,), None))
        getattr(typed.inputs[0].contents, _FIELDS[name]).extend(values)
        typed.outputs.add(name=f"OUT_{name}")
        yield call(f"typed {name}", typed)
        for field in sorted({*_FIELDS.values()} - {_FIELDS[name]}):
            wrong = infer("all_types", (f"IN_{name}", datatype, (1,), None))
            sample = b"x" if field == "bytes_contents" else 1
            getattr(wrong.inputs[0].contents, field).append(sample)
            yield call(f"typed {name} in {field}", wrong)
        few = infer("all_types", (f"IN_{name}", datatype, (3,), None))
        getattr(few.inputs[0].contents, _FIELDS[name]).extend(values[:2])
        yield call(f"typed {name} of too few elements", few)
    for datatype in ("FP16", "BF16"):
        request = infer("all_types", ("IN_FP16", datatype, (1,), None))
        request.inputs[0].contents.fp32_contents.append(1)
        yield call(f"typed {datatype} in fp32_contents", request)
    narrow = infer("all_types", ("IN_INT8", "INT8", (2,), None))
    narrow.inputs[0].contents.int_contents.extend([300, -129])
    narrow.outputs.add(name="OUT_INT8")
    yield call("typed INT8 out of its range", narrow)
    unsigned = infer("all_types", ("IN_UINT16", "UINT16", (1,), None))
    unsigned.inputs[0].contents.uint_contents.append(70000)
    unsigned.outputs.add(name="OUT_UINT16")
    yield call("typed UINT16 out of its range", unsigned)
    for datatype in ("", "STRING", "int32", "FP128", "TYPE_INT32", "INVALID"):
        yield call(f"datatype {datatype!r}", infer("all_types", ("IN_INT32", datatype, (1,), ints(1))))


def _other(datatype: str) -> str:
    return "FP32" if datatype != "FP32" else "INT32"


def _simple() -> Iterator[Call]:
    yield call("simple", addsub())
    yield call("simple with an id", addsub(id="my-id"))
    yield call("simple with an id beyond ASCII", addsub(id="zwölf ☃"))
    yield call("simple of eight rows", addsub(rows=8))
    yield call("simple of nine rows", addsub(rows=9))
    for version in (
        "1", "01", "+1", " 1", "1x", "-1", "0", "2", "abc", "99999999999999999999", "1.5", "", str(-(2**63)),
    ):  # fmt: skip
        yield call(f"simple of version {version!r}", addsub(model_version=version))
    for name in ("versioned_all", "versioned_latest", "versioned_specific", "versioned_default"):
        for version in ("", "1", "2", "3"):
            yield call(f"{name} of version {version!r}", addsub(name, model_version=version))


def _shapes() -> Iterator[Call]:
    for shape, data in {
        (16,): RAMP,
        (1, 15): ints(*range(15)),
        (1, 17): ints(*range(17)),
        (1, 16, 1): RAMP,
        (2, 16): RAMP * 2,
        (0, 16): b"",
        (-1, 16): RAMP,
        (1, -16): RAMP,
        (-2, 16): RAMP,
        (1, 16, -1): RAMP,
        (-1, -1, 3): RAMP,
        (): ints(1),
    }.items():
        request = infer("simple", ("INPUT0", "INT32", shape, data), ("INPUT1", "INT32", (1, 16), ONES))
        yield call(f"simple with INPUT0 of {shape}", request)
        both = infer("simple", ("INPUT0", "INT32", shape, data), ("INPUT1", "INT32", shape, data))
        yield call(f"simple with both of {shape}", both)
    for shape in ((2, 2), (0, 2), (2, 0), (1, 1), (4,), (1, 2, 2), (), (-1, 2), (2, -1), (-1,), (-16, -16), (-2, 2)):
        data = ints(*range(4))[: 4 * max(0, _product(shape))]
        yield call(f"identity_nobatch of {shape}", infer("identity_nobatch", ("INPUT0", "INT32", shape, data)))
    for shape in ((1, 0), (1, 1), (1, 5), (8, 3), (5,)):
        data = floats(*range(_product(shape)))
        yield call(f"identity_fp32 of {shape}", infer("identity_fp32", ("INPUT0", "FP32", shape, data)))


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _contents() -> Iterator[Call]:
    bare = infer("simple", ("INPUT0", "INT32", (1, 16), None), ("INPUT1", "INT32", (1, 16), None))
    yield call("no contents at all", bare)
    one = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("INPUT1", "INT32", (1, 16), None))
    yield call("raw contents of one of two inputs", one)
    three = addsub()
    three.raw_input_contents.append(b"more")
    yield call("raw contents of three for two inputs", three)
    both = addsub()
    both.inputs[0].contents.int_contents.extend(range(16))
    yield call("raw and typed contents for one input", both)
    mixed = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("INPUT1", "INT32", (1, 16), None))
    mixed.inputs[1].contents.int_contents.extend([1] * 16)
    yield call("raw contents for one input and typed for the other", mixed)
    typed = infer("simple", ("INPUT0", "INT32", (1, 16), None), ("INPUT1", "INT32", (1, 16), None))
    for tensor in typed.inputs:
        tensor.contents.int_contents.extend([2] * 16)
    yield call("typed contents for both", typed)
    del typed.inputs[1].contents.int_contents[3:]
    yield call("typed contents too short for the second", typed)
    empty = infer("identity_fp32", ("INPUT0", "FP32", (1, 2), None))
    empty.inputs[0].contents.SetInParent()
    yield call("typed contents without elements", empty)
    two_kinds = infer("identity_fp32", ("INPUT0", "FP32", (1, 2), None))
    two_kinds.inputs[0].contents.fp32_contents.extend([1, 2])
    two_kinds.inputs[0].contents.int_contents.extend([1, 2])
    yield call("typed contents of two kinds", two_kinds)
    second = infer("identity_nobatch", ("INPUT0", "INT32", (1, 2), None))
    second.inputs[0].contents.int_contents.extend([1, 2])
    second.inputs[0].contents.fp64_contents.append(1)
    yield call("typed contents of the right kind and of another", second)
    unused = infer("identity_fp32", ("INPUT0", "FP32", (1, 2), b""))
    yield call("raw contents that are empty", unused)
    for name, data in {
        "one": strings(b"hello"),
        "none": b"",
        "two": strings(b"a", b"b"),
        "cut in its length": b"\1\0",
        "cut in its text": b"\5\0\0\0ab",
        "and another one that is cut": strings(b"a") + b"\5\0\0\0ab",
        "and the length of another one": strings(b"a") + b"\5\0\0\0",
        "with bytes left over": strings(b"a") + b"\0",
        "of zero bytes": strings(b""),
        "binary": strings(bytes(range(256))),
        "with a huge length": b"\xff\xff\xff\xff",
    }.items():
        yield call(f"bytes, {name}", infer("identity_bytes", ("INPUT0", "BYTES", (1, 1), data)))
    few = infer("identity_bytes", ("INPUT0", "BYTES", (1, 3), strings(b"a") + b"\5\0\0\0ab"))
    yield call("bytes, too few and the last one cut", few)
    texts = infer("identity_bytes", ("INPUT0", "BYTES", (1, 2), None))
    texts.inputs[0].contents.bytes_contents.extend([b"one", b"\xff\0"])
    yield call("bytes, typed", texts)
    yield call("bytes, two rows", infer("identity_bytes", ("INPUT0", "BYTES", (2, 1), strings(b"x", b"y"))))


def _outputs() -> Iterator[Call]:
    for names in (
        ("OUTPUT1",),
        ("OUTPUT1", "OUTPUT0"),
        ("OUTPUT0", "OUTPUT0"),
        ("NOPE",),
        ("OUTPUT0", "NOPE"),
        ("",),
        ("Y", "X"),
    ):
        request = addsub()
        for name in names:
            request.outputs.add(name=name)
        yield call(f"outputs {names}", request)
    binary = addsub()
    binary.outputs.add(name="OUTPUT0").parameters["binary_data"].bool_param = True
    yield call("an output with binary_data", binary)
    unknown = addsub()
    unknown.outputs.add(name="OUTPUT0").parameters["whatever"].string_param = "x"
    yield call("an output with an unknown parameter", unknown)


def _parameters() -> Iterator[Call]:
    kinds: dict[str, Any] = {
        "bool_param": True,
        "int64_param": -(2**62),
        "string_param": "täxt",
        "double_param": 0.25,
        "uint64_param": 2**63 + 1,
    }
    for kind, value in kinds.items():
        request = infer("params_echo", ("X", "INT32", (1,), ints(1)), id="p")
        setattr(request.parameters["key"], kind, value)
        yield call(f"a parameter of {kind}", request)
    for key, value in (("priority", -1), ("sequence_id", -5), ("sequence_id", "z" * 128), ("sequence_id", "z" * 129)):
        request = infer("params_echo", ("X", "INT32", (1,), ints(1)))
        set_parameters(request.parameters, {key: value})
        yield call(f"the parameter {key} as {value!r}", request)
    none = infer("params_echo", ("X", "INT32", (1,), ints(1)))
    none.parameters["key"].SetInParent()
    yield call("a parameter without a value", none)
    many = infer("params_echo", ("X", "INT32", (1,), ints(1)), id="p")
    many.parameters["a"].string_param = "x"
    many.parameters["b"].int64_param = 2
    many.parameters["timeout"].int64_param = 7
    yield call("parameters beside a timeout", many)
    values: dict[str, Any] = {**kinds, "zero": 0}
    for key in (
        "timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "binary_data_output",
        "triton_enable_empty_final_response", "triton_final_response", "triton_reserved", "triton_", "headers",
    ):  # fmt: skip
        for kind, value in values.items():
            request = infer("params_echo", ("X", "INT32", (1,), ints(1)))
            if kind == "zero":
                request.parameters[key].int64_param = 0
            else:
                setattr(request.parameters[key], kind, value if kind != "int64_param" else 5)
            yield call(f"the parameter {key} as {kind}", request)
    for kind, value in kinds.items():
        request = identity()
        setattr(request.inputs[0].parameters["shared_memory_region"], kind, value)
        yield call(f"an input's shared_memory_region as {kind}", request)
    on_input = identity()
    on_input.inputs[0].parameters["whatever"].bool_param = True
    yield call("an input with an unknown parameter", on_input)


def _classification() -> Iterator[Call]:
    for count in (1, 3, 16, 17, 100, 0, -1):
        request = addsub()
        request.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = count
        yield call(f"classification of {count}", request)
    for kind, value in {"string_param": "2", "bool_param": True, "double_param": 2.0, "uint64_param": 2}.items():
        request = addsub()
        setattr(request.outputs.add(name="OUTPUT0").parameters["classification"], kind, value)
        yield call(f"classification as {kind}", request)
    two = addsub(rows=2)
    two.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 2
    two.outputs.add(name="OUTPUT1")
    yield call("classification of two rows beside a plain output", two)
    reals = infer("identity_fp32", ("INPUT0", "FP32", (1, 4), floats(0.5, -1, 1e10, 0.1)))
    reals.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 4
    yield call("classification of floats", reals)
    flat = infer("identity_nobatch", ("INPUT0", "INT32", (2, 3), ints(3, 1, 2, 9, 8, 7)))
    flat.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 2
    yield call("classification without batches", flat)
    for name in ("BOOL", "UINT8", "INT64", "FP16", "FP64"):
        values = {"BOOL": [True, False, True], "FP16": [0.5, -1.0, 2.0]}.get(name, [1, 3, 2])
        raw = struct.pack(f"<3{_FORMATS[name]}", *values)
        request = infer("all_types", (f"IN_{name}", name, (3,), raw))
        request.outputs.add(name=f"OUT_{name}").parameters["classification"].int64_param = 3
        yield call(f"classification of {name}", request)


def _models() -> Iterator[Call]:
    for name in ("nope", "", "broken_init", "broken_cfg", "ens_missing", "no_version", "unknown_backend", "wrong_name"):
        yield call(f"the model {name!r}", addsub(name))
        yield call(f"the model {name!r} of version 1", addsub(name, model_version="1"))
    ensemble = infer("ens_addsub_double", ("A", "INT32", (1, 16), RAMP), ("B", "INT32", (1, 16), ONES), id="e")
    yield call("an ensemble", ensemble)
    ensemble.outputs.add(name="DIFF2")
    yield call("one output of an ensemble", ensemble)
    yield call("an ensemble without an input", infer("ens_addsub_double", ("A", "INT32", (1, 16), RAMP)))
    yield call("a model that calls another", infer("bls_rag", ("QUESTION", "BYTES", (1,), strings(b"why"))))
    yield call("auto_complete", infer("auto_complete", ("INPUT0", "FP32", (1, 4), floats(1, 2, 3, 4))))
    yield call("cached_fp32", infer("cached_fp32", ("INPUT0", "FP32", (1, 4), floats(1, 2, 3, 4))))
    yield call("cached_fp32 again", infer("cached_fp32", ("INPUT0", "FP32", (1, 4), floats(1, 2, 3, 4)), id="2"))
    yield call("warm_fp32", infer("warm_fp32", ("INPUT0", "FP32", (1, 4), floats(1, 2, 3, 4))))
    yield call("gen_plain", infer("gen_plain", ("text_input", "BYTES", (1,), strings(b"hello"))))
    with_parameters = infer("gen_plain", ("text_input", "BYTES", (1,), strings(b"hello")))
    with_parameters.parameters["temperature"].double_param = 0.5
    yield call("gen_plain with a parameter", with_parameters)
    yield call("gen_plain that fails", infer("gen_plain", ("text_input", "BYTES", (1,), strings(b"FAIL")), id="f"))
    for rpc, kind in (("ModelReady", "ModelReadyRequest"), ("ModelMetadata", "ModelMetadataRequest")):
        for version in ("0", "-1", "01", "1x", "99999999999999999999"):
            message = getattr(messages, kind)(name="simple", version=version)
            yield Call(f"{rpc} of version {version!r}", rpc, [message], {})
    for name in ("all_types", "auto_complete", "identity_nobatch", "repeat_int32", "seq_accumulate", "queue_policy"):
        yield Call(f"metadata of {name}", "ModelMetadata", [messages.ModelMetadataRequest(name=name)], {})
        yield Call(f"configuration of {name}", "ModelConfig", [messages.ModelConfigRequest(name=name)], {})
