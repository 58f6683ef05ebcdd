"""gRPC calls about all else: errors, shared memory, repository, settings, streams, sequences, decoupled models."""

from __future__ import annotations

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
    stream,
    strings,
)


def protocol_cases() -> list[Call]:
    return [
        *_errors(),
        *_shared_memory(),
        *_repository(),
        *_settings(),
        *_statistics(),
        *_streams(),
        *_sequences(),
        *_decoupled(),
    ]


def _errors() -> Iterator[Call]:
    for number in range(1, 10):
        request = infer("fail_exec", ("INPUT0", "FP32", (1, 4), floats(number, 0, 0, 0)), id=f"id-{number}")
        yield call(f"a model's error {number}", request)
    yield call("a model that answers", infer("fail_exec", ("INPUT0", "FP32", (1, 4), floats(99, 0, 0, 0))))
    yield call("a missing input", infer("simple", ("INPUT0", "INT32", (1, 16), RAMP)))
    yield call("a missing input, with an id", infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), id="mine"))
    yield call("no inputs", infer("simple"))
    yield call("no inputs to a model of optional ones", infer("all_types"))
    extra = infer(
        "simple",
        ("INPUT0", "INT32", (1, 16), RAMP),
        ("INPUT1", "INT32", (1, 16), ONES),
        ("INPUT2", "INT32", (1, 16), ONES),
    )
    yield call("an input too many", extra)
    named = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("NOPE", "INT32", (1, 16), ONES))
    yield call("an unknown input", named)
    twice = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("INPUT0", "INT32", (1, 16), ONES))
    yield call("an input given twice", twice)
    bare = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("INPUT0", "INT32", (1, 16), None))
    yield call("an input given twice, once without contents", bare)
    elsewhere = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("NOPE", "INT32", (2, 16), ONES * 2))
    yield call("an unknown input of another batch", elsewhere)
    wrong = infer("simple", ("INPUT0", "FP32", (1, 16), RAMP), ("INPUT1", "INT32", (1, 16), ONES))
    yield call("an input of another type", wrong)
    sizes = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("INPUT1", "INT32", (2, 16), ONES * 2))
    yield call("inputs of different batches", sizes)
    unnamed = infer("simple", ("", "INT32", (1, 16), RAMP), ("INPUT1", "INT32", (1, 16), ONES))
    yield call("an input without a name", unnamed)


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
            set_parameters(tensor.parameters, parameters)
        yield call(f"inputs in shared memory: {text}", request)
        request = addsub()
        set_parameters(request.outputs.add(name="OUTPUT0").parameters, parameters)
        yield call(f"an output in shared memory: {text}", request)
        request = addsub()
        set_parameters(request.inputs[0].parameters, parameters)
        yield call(f"an input in shared memory with raw contents: {text}", request)
    wrong = infer("simple", ("INPUT0", "INT32", (1, 16), RAMP), ("INPUT1", "INT32", (1, 16), None))
    set_parameters(wrong.outputs.add(name="OUTPUT0").parameters, {"shared_memory_offset": 4})
    yield call("an output's place that is wrong, and an input without contents", wrong)
    both = addsub()
    both.outputs.add(name="OUTPUT0")
    set_parameters(
        both.outputs[0].parameters, {"shared_memory_region": "x", "shared_memory_byte_size": 4, "classification": 1}
    )
    yield call("an output both classified and in shared memory", both)
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
    refused = messages.RepositoryModelUnloadRequest(repository_name="foo", model_name="simple")
    refused.parameters["unload_dependents"].int64_param = 1
    yield Call("unloading from a named repository with a wrong parameter", "RepositoryModelUnload", [refused], {})
    loaded = messages.RepositoryModelLoadRequest(repository_name="foo", model_name="simple")
    loaded.parameters["whatever"].string_param = "{}"
    yield Call("loading from a named repository with an unknown parameter", "RepositoryModelLoad", [loaded], {})


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
    for name, version in (("simple", "9"), ("simple", "abc"), ("broken_init", ""), ("nope", "1"), ("", "abc")):
        request = messages.ModelStatisticsRequest(name=name, version=version)
        yield Call(f"statistics of {name!r} of version {version!r}", "ModelStatistics", [request], {})


def _streams() -> Iterator[Call]:
    yield stream("a stream of nothing")
    yield stream("a stream of one", addsub(id="1"))
    yield stream("a stream of three", addsub(id="1"), addsub(id="2", rows=2), addsub(id="3"))
    yield stream("a stream to two models", addsub(id="1"), identity(id="2"))
    yield stream("a stream with an error between", addsub(id="1"), addsub("nope", id="2"), addsub(id="3"))
    yield stream("an error without an id on a stream", addsub("nope"))
    yield stream("a wrong shape on a stream", infer("simple", ("INPUT0", "INT32", (1, 15), ints(*range(15))), id="s"))
    yield stream("a wrong version on a stream", addsub(id="v", model_version="abc"))
    yield stream("a model's error on a stream", infer("fail_exec", ("INPUT0", "FP32", (1, 4), floats(5)), id="m"))
    failing = infer("fail_exec", ("INPUT0", "FP32", (1, 4), floats(5, 0, 0, 0)), id="m")
    yield stream("a model's own error on a stream", failing, addsub(id="after"))
    versioned = infer("fail_exec", ("INPUT0", "FP32", (1, 4), floats(5, 0, 0, 0)), id="m", model_version="01")
    yield stream("a model's error on a stream, of a version", versioned)
    bad = addsub(id="p")
    bad.parameters["priority"].string_param = "x"
    yield stream("a wrong parameter on a stream", bad)
    for value in ("true", "false", "1", "TRUE"):
        yield stream(f"an error with triton_grpc_error={value}", addsub("nope", id="2"), triton_grpc_error=value)
    yield stream("a model's error with triton_grpc_error=true", failing, triton_grpc_error="true")
    yield stream("a good request with triton_grpc_error=true", addsub(id="1"), triton_grpc_error="true")
    empty_final = addsub(id="1")
    empty_final.parameters["triton_enable_empty_final_response"].bool_param = True
    yield stream("an ordinary model with triton_enable_empty_final_response", empty_final)
    failing_final = infer("fail_exec", ("INPUT0", "FP32", (1, 4), floats(5, 0, 0, 0)), id="m")
    failing_final.parameters["triton_enable_empty_final_response"].bool_param = True
    yield stream("a model's error with triton_enable_empty_final_response", failing_final)
    unknown_final = addsub("nope", id="u")
    unknown_final.parameters["triton_enable_empty_final_response"].bool_param = True
    yield stream("an unknown model with triton_enable_empty_final_response", unknown_final)
    for kind, value in {"string_param": "true", "int64_param": 1, "double_param": 1.0}.items():
        request = addsub(id="1")
        setattr(request.parameters["triton_enable_empty_final_response"], kind, value)
        yield stream(f"triton_enable_empty_final_response as {kind} on a stream", request)


def _sequences() -> Iterator[Call]:
    def step(value: int, **parameters: Any) -> Any:
        request = infer("seq_accumulate", ("INPUT", "INT32", (1, 1), ints(value)), id=str(value))
        for key, item in parameters.items():
            if isinstance(item, bool):
                request.parameters[key].bool_param = item
            elif isinstance(item, str):
                request.parameters[key].string_param = item
            else:
                request.parameters[key].int64_param = item
        return request

    yield call("a sequence without an id", step(1))
    yield call("a sequence that was not started", step(1, sequence_id=77))
    yield call("a sequence's only request", step(5, sequence_id=78, sequence_start=True, sequence_end=True))
    yield call("a sequence begun", step(5, sequence_id=79, sequence_start=True))
    yield call("a sequence gone on with", step(6, sequence_id=79))
    yield call("a sequence ended", step(7, sequence_id=79, sequence_end=True))
    yield call("a sequence gone on with after its end", step(8, sequence_id=79))
    yield call("a sequence with a text as its id", step(5, sequence_id="text", sequence_start=True, sequence_end=True))
    yield call("a batch of two in a sequence", infer("seq_accumulate", ("INPUT", "INT32", (2, 1), ints(1, 2))))
    yield stream(
        "a sequence on a stream",
        step(1, sequence_id=80, sequence_start=True),
        step(2, sequence_id=80),
        step(3, sequence_id=80, sequence_end=True),
    )
    yield stream("a request of no sequence on a stream", step(1, sequence_id=81))
    yield call("a request of no sequence whose id is below zero", step(1, sequence_id=-1))
    ordinary = addsub()
    ordinary.parameters["sequence_id"].int64_param = 5
    ordinary.parameters["sequence_start"].bool_param = True
    yield call("a sequence id for a model without sequences", ordinary)


def _decoupled() -> Iterator[Call]:
    def repeat(*values: int, id: str = "r", final: bool = False) -> Any:
        request = infer(
            "repeat_int32",
            ("IN", "INT32", (len(values),), ints(*values)),
            ("DELAY", "UINT32", (len(values),), ints(*[0] * len(values))),
            ("WAIT", "UINT32", (1,), ints(0)),
            id=id,
        )
        if final:
            request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request

    def say(text: bytes, model: str = "gen_stream", id: str = "g", final: bool = False, tokens: int = 0) -> Any:
        request = infer(model, ("text_input", "BYTES", (1,), strings(text)), ("stream", "BOOL", (1,), b"\1"), id=id)
        if tokens:
            request.inputs.add(name="max_tokens", datatype="INT32", shape=(1,))
            request.raw_input_contents.append(ints(tokens))
        if final:
            request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request

    yield call("a decoupled model asked without a stream", repeat(1, 2))
    yield call("a decoupled model asked for one answer without a stream", repeat(1))
    yield call("a decoupled model asked for none without a stream", repeat())
    yield call("gen_stream asked without a stream", say(b"a b c"))
    for values in ((), (7,), (1, 2, 3)):
        for final in (False, True):
            name = f"repeat_int32 of {values}{' with its end' if final else ''}"
            yield stream(name, repeat(*values, final=final))
    versioned = repeat(1, final=True)
    versioned.model_version = "1x"
    yield stream("repeat_int32 with its end, of a version", versioned)
    wanted = repeat(4, 5)
    wanted.outputs.add(name="IDX")
    yield stream("one output of repeat_int32", wanted)
    for text in (b"a b c", b"FAIL", b"FAIL_MID", b""):
        for final in (False, True):
            name = f"gen_stream of {text.decode()!r}{' with its end' if final else ''}"
            yield stream(name, say(text, final=final))
    yield stream("a stream that goes on after a model's error", say(b"FAIL", id="1"), say(b"x", id="2", tokens=2))
    yield stream("two decoupled requests", repeat(1, 2, id="a"), repeat(3, 4, id="b"))
    yield stream("a decoupled and an ordinary model", repeat(1, 2, id="a", final=True), addsub(id="b"))
    yield stream("a decoupled ensemble", say(b"a b", model="ens_stream"))
    yield stream("a decoupled ensemble with its end", say(b"a b", model="ens_stream", final=True))
    yield call("a decoupled ensemble asked without a stream", say(b"a b", model="ens_stream"))
    yield stream("FAIL_MID with triton_grpc_error=true", say(b"FAIL_MID"), triton_grpc_error="true")
