"""gRPC calls whose answers of real Triton are kept in `grpc_infer.json`: what is sent, by name.

`python -m tests.conformance.grpc_cases HOST:PORT FILE` asks a server over the conformance model repository and
writes what it answers.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonclient.grpc import service_pb2 as messages

from tests.conformance.grpc_calls import Call, ask

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


def cases() -> list[Call]:
    """Every call, each with a name of its own."""
    found = [
        *_datatypes(),
        *_simple(),
        *_shapes(),
        *_contents(),
        *_outputs(),
        *_parameters(),
        *_classification(),
        *_models(),
        *_errors(),
        *_shared_memory(),
        *_repository(),
        *_settings(),
        *_statistics(),
        *_streams(),
        *_sequences(),
        *_decoupled(),
    ]
    names = [call.name for call in found]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    return found


def infer(model: str, *inputs: tuple[str, str, tuple[int, ...], bytes | None], **fields: Any) -> Any:
    """A request with raw contents; an input whose bytes are None has neither those nor others."""
    request = messages.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape, data in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        if data is not None:
            request.raw_input_contents.append(data)
    return request


def _call(name: str, request: Any, **metadata: str) -> Call:
    as_it_is = messages.ModelInferRequest()
    as_it_is.CopyFrom(request)
    return Call(name, "ModelInfer", [as_it_is], metadata)


def _stream(name: str, *requests: Any, **metadata: str) -> Call:
    return Call(name, "ModelStreamInfer", list(requests), metadata)


def _ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


_RAMP = _ints(*range(16))
_ONES = _ints(*[1] * 16)


def addsub(model: str = "simple", rows: int = 1, **fields: Any) -> Any:
    return infer(
        model,
        ("INPUT0", "INT32", (rows, 16), _RAMP * rows),
        ("INPUT1", "INT32", (rows, 16), _ONES * rows),
        **fields,
    )


def _identity(**fields: Any) -> Any:
    return infer("identity_fp32", ("INPUT0", "FP32", (1, 2), _floats(1, 2)), **fields)


def _datatypes() -> Iterator[Call]:
    for name in [*_FORMATS, "STRING"]:
        values = _SAMPLES.get(name, [1, 2, 3])
        datatype = "BYTES" if name == "STRING" else name
        raw = _strings(*values) if name == "STRING" else struct.pack(f"<3{_FORMATS[name]}", *values)
        request = infer("all_types", (f"IN_{name}", datatype, (3,), raw))
        request.outputs.add(name=f"OUT_{name}")
        yield _call(f"raw {name}", request)
        short = infer("all_types", (f"IN_{name}", datatype, (4,), raw))
        yield _call(f"raw {name} of too few bytes", short)
        yield _call(f"raw {name} of too many bytes", infer("all_types", (f"IN_{name}", datatype, (2,), raw)))
        yield _call(f"raw {name} as another type", infer("all_types", (f"IN_{name}", _other(datatype), (3,), raw)))
        if name not in _FIELDS:
            continue
        typed = infer("all_types", (f"IN_{name}", datatype, (3,), None))
        getattr(typed.inputs[0].contents, _FIELDS[name]).extend(values)
        typed.outputs.add(name=f"OUT_{name}")
        yield _call(f"typed {name}", typed)
        for field in sorted({*_FIELDS.values()} - {_FIELDS[name]}):
            wrong = infer("all_types", (f"IN_{name}", datatype, (1,), None))
            sample = b"x" if field == "bytes_contents" else 1
            getattr(wrong.inputs[0].contents, field).append(sample)
            yield _call(f"typed {name} in {field}", wrong)
        few = infer("all_types", (f"IN_{name}", datatype, (3,), None))
        getattr(few.inputs[0].contents, _FIELDS[name]).extend(values[:2])
        yield _call(f"typed {name} of too few elements", few)
    for datatype in ("FP16", "BF16"):
        request = infer("all_types", ("IN_FP16", datatype, (1,), None))
        request.inputs[0].contents.fp32_contents.append(1)
        yield _call(f"typed {datatype} in fp32_contents", request)
    narrow = infer("all_types", ("IN_INT8", "INT8", (2,), None))
    narrow.inputs[0].contents.int_contents.extend([300, -129])
    narrow.outputs.add(name="OUT_INT8")
    yield _call("typed INT8 out of its range", narrow)
    unsigned = infer("all_types", ("IN_UINT16", "UINT16", (1,), None))
    unsigned.inputs[0].contents.uint_contents.append(70000)
    unsigned.outputs.add(name="OUT_UINT16")
    yield _call("typed UINT16 out of its range", unsigned)
    for datatype in ("", "STRING", "int32", "FP128", "TYPE_INT32", "INVALID"):
        yield _call(f"datatype {datatype!r}", infer("all_types", ("IN_INT32", datatype, (1,), _ints(1))))


def _other(datatype: str) -> str:
    return "FP32" if datatype != "FP32" else "INT32"


def _simple() -> Iterator[Call]:
    yield _call("simple", addsub())
    yield _call("simple with an id", addsub(id="my-id"))
    yield _call("simple with an id beyond ASCII", addsub(id="zwölf ☃"))
    yield _call("simple of eight rows", addsub(rows=8))
    yield _call("simple of nine rows", addsub(rows=9))
    for version in ("1", "01", "+1", " 1", "1x", "-1", "0", "2", "abc", "99999999999999999999", "1.5", ""):
        yield _call(f"simple of version {version!r}", addsub(model_version=version))
    for name in ("versioned_all", "versioned_latest", "versioned_specific", "versioned_default"):
        for version in ("", "1", "2", "3"):
            yield _call(f"{name} of version {version!r}", addsub(name, model_version=version))


def _shapes() -> Iterator[Call]:
    for shape, data in {
        (16,): _RAMP,
        (1, 15): _ints(*range(15)),
        (1, 17): _ints(*range(17)),
        (1, 16, 1): _RAMP,
        (2, 16): _RAMP * 2,
        (0, 16): b"",
        (-1, 16): _RAMP,
        (1, -16): _RAMP,
        (): _ints(1),
    }.items():
        request = infer("simple", ("INPUT0", "INT32", shape, data), ("INPUT1", "INT32", (1, 16), _ONES))
        yield _call(f"simple with INPUT0 of {shape}", request)
        both = infer("simple", ("INPUT0", "INT32", shape, data), ("INPUT1", "INT32", shape, data))
        yield _call(f"simple with both of {shape}", both)
    for shape in ((2, 2), (0, 2), (2, 0), (1, 1), (4,), (1, 2, 2), (), (-1, 2), (2, -1)):
        data = _ints(*range(4))[: 4 * max(0, _product(shape))]
        yield _call(f"identity_nobatch of {shape}", infer("identity_nobatch", ("INPUT0", "INT32", shape, data)))
    for shape in ((1, 0), (1, 1), (1, 5), (8, 3), (5,)):
        data = _floats(*range(_product(shape)))
        yield _call(f"identity_fp32 of {shape}", infer("identity_fp32", ("INPUT0", "FP32", shape, data)))


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _contents() -> Iterator[Call]:
    bare = infer("simple", ("INPUT0", "INT32", (1, 16), None), ("INPUT1", "INT32", (1, 16), None))
    yield _call("no contents at all", bare)
    one = infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP), ("INPUT1", "INT32", (1, 16), None))
    yield _call("raw contents of one of two inputs", one)
    three = addsub()
    three.raw_input_contents.append(b"more")
    yield _call("raw contents of three for two inputs", three)
    both = addsub()
    both.inputs[0].contents.int_contents.extend(range(16))
    yield _call("raw and typed contents for one input", both)
    mixed = infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP), ("INPUT1", "INT32", (1, 16), None))
    mixed.inputs[1].contents.int_contents.extend([1] * 16)
    yield _call("raw contents for one input and typed for the other", mixed)
    typed = infer("simple", ("INPUT0", "INT32", (1, 16), None), ("INPUT1", "INT32", (1, 16), None))
    for tensor in typed.inputs:
        tensor.contents.int_contents.extend([2] * 16)
    yield _call("typed contents for both", typed)
    del typed.inputs[1].contents.int_contents[3:]
    yield _call("typed contents too short for the second", typed)
    empty = infer("identity_fp32", ("INPUT0", "FP32", (1, 2), None))
    empty.inputs[0].contents.SetInParent()
    yield _call("typed contents without elements", empty)
    two_kinds = infer("identity_fp32", ("INPUT0", "FP32", (1, 2), None))
    two_kinds.inputs[0].contents.fp32_contents.extend([1, 2])
    two_kinds.inputs[0].contents.int_contents.extend([1, 2])
    yield _call("typed contents of two kinds", two_kinds)
    unused = infer("identity_fp32", ("INPUT0", "FP32", (1, 2), b""))
    yield _call("raw contents that are empty", unused)
    for name, data in {
        "one": _strings(b"hello"),
        "none": b"",
        "two": _strings(b"a", b"b"),
        "cut in its length": b"\1\0",
        "cut in its text": b"\5\0\0\0ab",
        "with bytes left over": _strings(b"a") + b"\0",
        "of zero bytes": _strings(b""),
        "binary": _strings(bytes(range(256))),
        "with a huge length": b"\xff\xff\xff\xff",
    }.items():
        yield _call(f"bytes, {name}", infer("identity_bytes", ("INPUT0", "BYTES", (1, 1), data)))
    strings = infer("identity_bytes", ("INPUT0", "BYTES", (1, 2), None))
    strings.inputs[0].contents.bytes_contents.extend([b"one", b"\xff\0"])
    yield _call("bytes, typed", strings)
    yield _call("bytes, two rows", infer("identity_bytes", ("INPUT0", "BYTES", (2, 1), _strings(b"x", b"y"))))


def _outputs() -> Iterator[Call]:
    for names in (("OUTPUT1",), ("OUTPUT1", "OUTPUT0"), ("OUTPUT0", "OUTPUT0"), ("NOPE",), ("OUTPUT0", "NOPE"), ("",)):
        request = addsub()
        for name in names:
            request.outputs.add(name=name)
        yield _call(f"outputs {names}", request)
    binary = addsub()
    binary.outputs.add(name="OUTPUT0").parameters["binary_data"].bool_param = True
    yield _call("an output with binary_data", binary)
    unknown = addsub()
    unknown.outputs.add(name="OUTPUT0").parameters["whatever"].string_param = "x"
    yield _call("an output with an unknown parameter", unknown)


def _parameters() -> Iterator[Call]:
    kinds: dict[str, Any] = {
        "bool_param": True,
        "int64_param": -(2**62),
        "string_param": "täxt",
        "double_param": 0.25,
        "uint64_param": 2**63 + 1,
    }
    for kind, value in kinds.items():
        request = infer("params_echo", ("X", "INT32", (1,), _ints(1)), id="p")
        setattr(request.parameters["key"], kind, value)
        yield _call(f"a parameter of {kind}", request)
    none = infer("params_echo", ("X", "INT32", (1,), _ints(1)))
    none.parameters["key"].SetInParent()
    yield _call("a parameter without a value", none)
    many = infer("params_echo", ("X", "INT32", (1,), _ints(1)), id="p")
    many.parameters["a"].string_param = "x"
    many.parameters["b"].int64_param = 2
    many.parameters["timeout"].int64_param = 7
    yield _call("parameters beside a timeout", many)
    values: dict[str, Any] = {**kinds, "zero": 0}
    for key in (
        "timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "binary_data_output",
        "triton_enable_empty_final_response", "triton_final_response", "triton_reserved", "triton_", "headers",
    ):  # fmt: skip
        for kind, value in values.items():
            request = infer("params_echo", ("X", "INT32", (1,), _ints(1)))
            if kind == "zero":
                request.parameters[key].int64_param = 0
            else:
                setattr(request.parameters[key], kind, value if kind != "int64_param" else 5)
            yield _call(f"the parameter {key} as {kind}", request)
    for kind, value in kinds.items():
        request = _identity()
        setattr(request.inputs[0].parameters["shared_memory_region"], kind, value)
        yield _call(f"an input's shared_memory_region as {kind}", request)
    on_input = _identity()
    on_input.inputs[0].parameters["whatever"].bool_param = True
    yield _call("an input with an unknown parameter", on_input)


def _classification() -> Iterator[Call]:
    for count in (1, 3, 16, 17, 100, 0, -1):
        request = addsub()
        request.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = count
        yield _call(f"classification of {count}", request)
    for kind, value in {"string_param": "2", "bool_param": True, "double_param": 2.0, "uint64_param": 2}.items():
        request = addsub()
        setattr(request.outputs.add(name="OUTPUT0").parameters["classification"], kind, value)
        yield _call(f"classification as {kind}", request)
    two = addsub(rows=2)
    two.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 2
    two.outputs.add(name="OUTPUT1")
    yield _call("classification of two rows beside a plain output", two)
    floats = infer("identity_fp32", ("INPUT0", "FP32", (1, 4), _floats(0.5, -1, 1e10, 0.1)))
    floats.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 4
    yield _call("classification of floats", floats)
    flat = infer("identity_nobatch", ("INPUT0", "INT32", (2, 3), _ints(3, 1, 2, 9, 8, 7)))
    flat.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 2
    yield _call("classification without batches", flat)
    for name in ("BOOL", "UINT8", "INT64", "FP16", "FP64"):
        values = {"BOOL": [True, False, True], "FP16": [0.5, -1.0, 2.0]}.get(name, [1, 3, 2])
        raw = struct.pack(f"<3{_FORMATS[name]}", *values)
        request = infer("all_types", (f"IN_{name}", name, (3,), raw))
        request.outputs.add(name=f"OUT_{name}").parameters["classification"].int64_param = 3
        yield _call(f"classification of {name}", request)


def _models() -> Iterator[Call]:
    for name in ("nope", "", "broken_init", "broken_cfg", "ens_missing", "no_version", "unknown_backend", "wrong_name"):
        yield _call(f"the model {name!r}", addsub(name))
        yield _call(f"the model {name!r} of version 1", addsub(name, model_version="1"))
    ensemble = infer("ens_addsub_double", ("A", "INT32", (1, 16), _RAMP), ("B", "INT32", (1, 16), _ONES), id="e")
    yield _call("an ensemble", ensemble)
    ensemble.outputs.add(name="DIFF2")
    yield _call("one output of an ensemble", ensemble)
    yield _call("an ensemble without an input", infer("ens_addsub_double", ("A", "INT32", (1, 16), _RAMP)))
    yield _call("a model that calls another", infer("bls_rag", ("QUESTION", "BYTES", (1,), _strings(b"why"))))
    yield _call("auto_complete", infer("auto_complete", ("INPUT0", "FP32", (1, 4), _floats(1, 2, 3, 4))))
    yield _call("cached_fp32", infer("cached_fp32", ("INPUT0", "FP32", (1, 4), _floats(1, 2, 3, 4))))
    yield _call("cached_fp32 again", infer("cached_fp32", ("INPUT0", "FP32", (1, 4), _floats(1, 2, 3, 4)), id="2"))
    yield _call("warm_fp32", infer("warm_fp32", ("INPUT0", "FP32", (1, 4), _floats(1, 2, 3, 4))))
    yield _call("gen_plain", infer("gen_plain", ("text_input", "BYTES", (1,), _strings(b"hello"))))
    with_parameters = infer("gen_plain", ("text_input", "BYTES", (1,), _strings(b"hello")))
    with_parameters.parameters["temperature"].double_param = 0.5
    yield _call("gen_plain with a parameter", with_parameters)
    yield _call("gen_plain that fails", infer("gen_plain", ("text_input", "BYTES", (1,), _strings(b"FAIL")), id="f"))
    for rpc, kind in (("ModelReady", "ModelReadyRequest"), ("ModelMetadata", "ModelMetadataRequest")):
        for version in ("0", "-1", "01", "1x", "99999999999999999999"):
            message = getattr(messages, kind)(name="simple", version=version)
            yield Call(f"{rpc} of version {version!r}", rpc, [message], {})
    for name in ("all_types", "auto_complete", "identity_nobatch", "repeat_int32", "seq_accumulate", "queue_policy"):
        yield Call(f"metadata of {name}", "ModelMetadata", [messages.ModelMetadataRequest(name=name)], {})
        yield Call(f"configuration of {name}", "ModelConfig", [messages.ModelConfigRequest(name=name)], {})


def _errors() -> Iterator[Call]:
    for number in range(1, 10):
        request = infer("fail_exec", ("INPUT0", "FP32", (1, 4), _floats(number, 0, 0, 0)), id=f"id-{number}")
        yield _call(f"a model's error {number}", request)
    yield _call("a model that answers", infer("fail_exec", ("INPUT0", "FP32", (1, 4), _floats(99, 0, 0, 0))))
    yield _call("a missing input", infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP)))
    yield _call("a missing input, with an id", infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP), id="mine"))
    yield _call("no inputs", infer("simple"))
    yield _call("no inputs to a model of optional ones", infer("all_types"))
    extra = infer(
        "simple",
        ("INPUT0", "INT32", (1, 16), _RAMP),
        ("INPUT1", "INT32", (1, 16), _ONES),
        ("INPUT2", "INT32", (1, 16), _ONES),
    )
    yield _call("an input too many", extra)
    named = infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP), ("NOPE", "INT32", (1, 16), _ONES))
    yield _call("an unknown input", named)
    twice = infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP), ("INPUT0", "INT32", (1, 16), _ONES))
    yield _call("an input given twice", twice)
    wrong = infer("simple", ("INPUT0", "FP32", (1, 16), _RAMP), ("INPUT1", "INT32", (1, 16), _ONES))
    yield _call("an input of another type", wrong)
    sizes = infer("simple", ("INPUT0", "INT32", (1, 16), _RAMP), ("INPUT1", "INT32", (2, 16), _ONES * 2))
    yield _call("inputs of different batches", sizes)
    unnamed = infer("simple", ("", "INT32", (1, 16), _RAMP), ("INPUT1", "INT32", (1, 16), _ONES))
    yield _call("an input without a name", unnamed)


def _shared_memory() -> Iterator[Call]:
    for parameters in (
        {"shared_memory_region": "nope", "shared_memory_byte_size": 64},
        {"shared_memory_region": "nope"},
        {"shared_memory_region": "nope", "shared_memory_byte_size": 64, "shared_memory_offset": 4},
        {"shared_memory_byte_size": 64},
        {"shared_memory_offset": 4},
        {"shared_memory_region": "nope", "shared_memory_byte_size": "64"},
        {"shared_memory_region": "nope", "shared_memory_byte_size": 64, "shared_memory_offset": "x"},
        {"shared_memory_region": 3, "shared_memory_byte_size": 64},
    ):
        text = ", ".join(f"{key.removeprefix('shared_memory_')}={value!r}" for key, value in parameters.items())
        request = infer("simple", ("INPUT0", "INT32", (1, 16), None), ("INPUT1", "INT32", (1, 16), None))
        for tensor in request.inputs:
            _set(tensor.parameters, parameters)
        yield _call(f"inputs in shared memory: {text}", request)
        request = addsub()
        _set(request.outputs.add(name="OUTPUT0").parameters, parameters)
        yield _call(f"an output in shared memory: {text}", request)
        request = addsub()
        _set(request.inputs[0].parameters, parameters)
        yield _call(f"an input in shared memory with raw contents: {text}", request)
    both = addsub()
    both.outputs.add(name="OUTPUT0")
    _set(both.outputs[0].parameters, {"shared_memory_region": "x", "shared_memory_byte_size": 4, "classification": 1})
    yield _call("an output both classified and in shared memory", both)
    for rpc in ("SystemSharedMemoryStatus", "CudaSharedMemoryStatus"):
        for name in ("", "nope"):
            yield Call(f"{rpc} of {name!r}", rpc, [getattr(messages, f"{rpc}Request")(name=name)], {})
    for rpc in ("SystemSharedMemoryUnregister", "CudaSharedMemoryUnregister"):
        for name in ("", "nope"):
            yield Call(f"{rpc} of {name!r}", rpc, [getattr(messages, f"{rpc}Request")(name=name)], {})
    for name, key, offset, size in (
        ("", "/nope", 0, 8), ("a", "", 0, 8), ("a", "/nope", 0, 0), ("a", "nope", 8, 8), ("a", "/a/b", 0, 8),
    ):  # fmt: skip
        register = messages.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
        yield Call(f"registering {name!r} of {key!r}, {offset}, {size}", "SystemSharedMemoryRegister", [register], {})
    for name, handle, device in (("", b"abc", 0), ("a", b"", 0), ("a", b"x" * 64, 0), ("a", b"x" * 64, 7)):
        cuda = messages.CudaSharedMemoryRegisterRequest(name=name, raw_handle=handle, device_id=device, byte_size=8)
        yield Call(f"registering {name!r} of a CUDA handle of {len(handle)}, {device}", "CudaSharedMemoryRegister",
                   [cuda], {})  # fmt: skip


def _set(parameters: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, str):
            parameters[key].string_param = value
        else:
            parameters[key].int64_param = value


def _repository() -> Iterator[Call]:
    for name in ("simple", "nope", ""):
        load = messages.RepositoryModelLoadRequest(model_name=name)
        yield Call(f"loading {name!r}", "RepositoryModelLoad", [load], {})
        unload = messages.RepositoryModelUnloadRequest(model_name=name)
        yield Call(f"unloading {name!r}", "RepositoryModelUnload", [unload], {})
    configured = messages.RepositoryModelLoadRequest(model_name="simple")
    configured.parameters["config"].string_param = "{}"
    yield Call("loading with a configuration", "RepositoryModelLoad", [configured], {})
    unknown = messages.RepositoryModelLoadRequest(model_name="simple")
    unknown.parameters["whatever"].string_param = "{}"
    yield Call("loading with an unknown parameter", "RepositoryModelLoad", [unknown], {})
    for kind, value in (("bool_param", True), ("int64_param", 1), ("bytes_param", b"{}")):
        request = messages.RepositoryModelLoadRequest(model_name="simple")
        setattr(request.parameters["config"], kind, value)
        yield Call(f"loading with a configuration as {kind}", "RepositoryModelLoad", [request], {})
        request = messages.RepositoryModelLoadRequest(model_name="simple")
        setattr(request.parameters["file:1/model.py"], kind, value)
        yield Call(f"loading with a file as {kind}", "RepositoryModelLoad", [request], {})
    for kind, value in (("bool_param", True), ("string_param", "true")):
        dependents = messages.RepositoryModelUnloadRequest(model_name="simple")
        setattr(dependents.parameters["unload_dependents"], kind, value)
        yield Call(f"unloading with unload_dependents as {kind}", "RepositoryModelUnload", [dependents], {})
    other = messages.RepositoryModelUnloadRequest(model_name="simple")
    other.parameters["whatever"].bool_param = True
    yield Call("unloading with an unknown parameter", "RepositoryModelUnload", [other], {})
    elsewhere = messages.RepositoryModelUnloadRequest(repository_name="foo", model_name="simple")
    yield Call("unloading from a named repository", "RepositoryModelUnload", [elsewhere], {})


def _settings() -> Iterator[Call]:
    for key, kind, value in (
        ("log_info", "uint32_param", 1), ("log_info", "string_param", "true"),
        ("log_verbose_level", "bool_param", True),
        ("log_verbose_level", "string_param", "1"), ("log_format", "bool_param", True), ("log_format", "string_param",
        "default"), ("log_file", "bool_param", True), ("nope", "bool_param", True), ("log_error", "bool_param", True),
        ("log_warning", "uint32_param", 0),
    ):  # fmt: skip
        request = messages.LogSettingsRequest()
        setattr(request.settings[key], kind, value)
        yield Call(f"the log setting {key} as {kind} {value!r}", "LogSettings", [request], {})
    empty = messages.LogSettingsRequest()
    empty.settings["log_info"].SetInParent()
    yield Call("a log setting without a value", "LogSettings", [empty], {})
    for key, values in (
        ("trace_rate", ["-1"]), ("trace_rate", ["1", "2"]), ("trace_rate", []), ("trace_level", ["NOPE"]),
        ("trace_level", ["OFF", "TIMESTAMPS"]), ("trace_count", ["x"]),
        ("trace_count", ["-2"]), ("log_frequency", ["x"]),
        ("trace_file", ["/tmp/x"]), ("nope", ["1"]), ("trace_mode", ["opentelemetry"]), ("trace_count", []),
    ):  # fmt: skip
        request = messages.TraceSettingRequest()
        request.settings[key].value.extend(values)
        yield Call(f"the trace setting {key} as {values}", "TraceSetting", [request], {})


def _statistics() -> Iterator[Call]:
    for name, version in (("simple", "9"), ("simple", "abc"), ("broken_init", ""), ("nope", "1")):
        request = messages.ModelStatisticsRequest(name=name, version=version)
        yield Call(f"statistics of {name!r} of version {version!r}", "ModelStatistics", [request], {})


def _streams() -> Iterator[Call]:
    yield _stream("a stream of nothing")
    yield _stream("a stream of one", addsub(id="1"))
    yield _stream("a stream of three", addsub(id="1"), addsub(id="2", rows=2), addsub(id="3"))
    yield _stream("a stream to two models", addsub(id="1"), _identity(id="2"))
    yield _stream("a stream with an error between", addsub(id="1"), addsub("nope", id="2"), addsub(id="3"))
    yield _stream("an error without an id on a stream", addsub("nope"))
    yield _stream("a wrong shape on a stream", infer("simple", ("INPUT0", "INT32", (1, 15), _ints(*range(15))), id="s"))
    yield _stream("a wrong version on a stream", addsub(id="v", model_version="abc"))
    yield _stream("a model's error on a stream", infer("fail_exec", ("INPUT0", "FP32", (1, 4), _floats(5)), id="m"))
    failing = infer("fail_exec", ("INPUT0", "FP32", (1, 4), _floats(5, 0, 0, 0)), id="m")
    yield _stream("a model's own error on a stream", failing, addsub(id="after"))
    bad = addsub(id="p")
    bad.parameters["priority"].string_param = "x"
    yield _stream("a wrong parameter on a stream", bad)
    for value in ("true", "false", "1", "TRUE"):
        yield _stream(f"an error with triton_grpc_error={value}", addsub("nope", id="2"), triton_grpc_error=value)
    yield _stream("a model's error with triton_grpc_error=true", failing, triton_grpc_error="true")
    yield _stream("a good request with triton_grpc_error=true", addsub(id="1"), triton_grpc_error="true")
    empty_final = addsub(id="1")
    empty_final.parameters["triton_enable_empty_final_response"].bool_param = True
    yield _stream("an ordinary model with triton_enable_empty_final_response", empty_final)
    failing_final = infer("fail_exec", ("INPUT0", "FP32", (1, 4), _floats(5, 0, 0, 0)), id="m")
    failing_final.parameters["triton_enable_empty_final_response"].bool_param = True
    yield _stream("a model's error with triton_enable_empty_final_response", failing_final)
    unknown_final = addsub("nope", id="u")
    unknown_final.parameters["triton_enable_empty_final_response"].bool_param = True
    yield _stream("an unknown model with triton_enable_empty_final_response", unknown_final)
    for kind, value in {"string_param": "true", "int64_param": 1, "double_param": 1.0}.items():
        request = addsub(id="1")
        setattr(request.parameters["triton_enable_empty_final_response"], kind, value)
        yield _stream(f"triton_enable_empty_final_response as {kind} on a stream", request)


def _sequences() -> Iterator[Call]:
    def step(value: int, **parameters: Any) -> Any:
        request = infer("seq_accumulate", ("INPUT", "INT32", (1, 1), _ints(value)), id=str(value))
        for key, item in parameters.items():
            if isinstance(item, bool):
                request.parameters[key].bool_param = item
            elif isinstance(item, str):
                request.parameters[key].string_param = item
            else:
                request.parameters[key].int64_param = item
        return request

    yield _call("a sequence without an id", step(1))
    yield _call("a sequence that was not started", step(1, sequence_id=77))
    yield _call("a sequence's only request", step(5, sequence_id=78, sequence_start=True, sequence_end=True))
    yield _call("a sequence begun", step(5, sequence_id=79, sequence_start=True))
    yield _call("a sequence gone on with", step(6, sequence_id=79))
    yield _call("a sequence ended", step(7, sequence_id=79, sequence_end=True))
    yield _call("a sequence gone on with after its end", step(8, sequence_id=79))
    yield _call("a sequence with a text as its id", step(5, sequence_id="text", sequence_start=True, sequence_end=True))
    yield _call("a batch of two in a sequence", infer("seq_accumulate", ("INPUT", "INT32", (2, 1), _ints(1, 2))))
    yield _stream(
        "a sequence on a stream",
        step(1, sequence_id=80, sequence_start=True),
        step(2, sequence_id=80),
        step(3, sequence_id=80, sequence_end=True),
    )
    ordinary = addsub()
    ordinary.parameters["sequence_id"].int64_param = 5
    ordinary.parameters["sequence_start"].bool_param = True
    yield _call("a sequence id for a model without sequences", ordinary)


def _decoupled() -> Iterator[Call]:
    def repeat(*values: int, id: str = "r", final: bool = False) -> Any:
        request = infer(
            "repeat_int32",
            ("IN", "INT32", (len(values),), _ints(*values)),
            ("DELAY", "UINT32", (len(values),), _ints(*[0] * len(values))),
            ("WAIT", "UINT32", (1,), _ints(0)),
            id=id,
        )
        if final:
            request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request

    def say(text: bytes, model: str = "gen_stream", id: str = "g", final: bool = False, tokens: int = 0) -> Any:
        request = infer(model, ("text_input", "BYTES", (1,), _strings(text)), ("stream", "BOOL", (1,), b"\1"), id=id)
        if tokens:
            request.inputs.add(name="max_tokens", datatype="INT32", shape=(1,))
            request.raw_input_contents.append(_ints(tokens))
        if final:
            request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request

    yield _call("a decoupled model asked without a stream", repeat(1, 2))
    yield _call("a decoupled model asked for one answer without a stream", repeat(1))
    yield _call("a decoupled model asked for none without a stream", repeat())
    yield _call("gen_stream asked without a stream", say(b"a b c"))
    for values in ((), (7,), (1, 2, 3)):
        for final in (False, True):
            name = f"repeat_int32 of {values}{' with its end' if final else ''}"
            yield _stream(name, repeat(*values, final=final))
    wanted = repeat(4, 5)
    wanted.outputs.add(name="IDX")
    yield _stream("one output of repeat_int32", wanted)
    for text in (b"a b c", b"FAIL", b"FAIL_MID", b""):
        for final in (False, True):
            name = f"gen_stream of {text.decode()!r}{' with its end' if final else ''}"
            yield _stream(name, say(text, final=final))
    yield _stream("a stream that goes on after a model's error", say(b"FAIL", id="1"), say(b"x", id="2", tokens=2))
    yield _stream("two decoupled requests", repeat(1, 2, id="a"), repeat(3, 4, id="b"))
    yield _stream("a decoupled and an ordinary model", repeat(1, 2, id="a", final=True), addsub(id="b"))
    yield _stream("a decoupled ensemble", say(b"a b", model="ens_stream"))
    yield _stream("a decoupled ensemble with its end", say(b"a b", model="ens_stream", final=True))
    yield _call("a decoupled ensemble asked without a stream", say(b"a b", model="ens_stream"))
    yield _stream("FAIL_MID with triton_grpc_error=true", say(b"FAIL_MID"), triton_grpc_error="true")


def main() -> None:
    target, file = sys.argv[1:]
    recorded = []
    for call in cases():
        answer = ask(target, call)
        recorded.append(
            {
                "name": call.name,
                "rpc": call.rpc,
                "metadata": call.metadata,
                "requests": [
                    base64.b64encode(each.SerializeToString(deterministic=True)).decode() for each in call.requests
                ],
                "code": answer.code,
                "details": answer.details,
                "responses": [base64.b64encode(each).decode() for each in answer.messages],
            }
        )
    Path(file).write_text("[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in recorded) + "\n]\n")


if __name__ == "__main__":
    main()
