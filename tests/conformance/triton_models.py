"""The conformance repository's models without their workers: what each `model.py` there does, on bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path

from backends import repository
from backends.config import Input, ModelConfig, Output
from backends.errors import Code, InferenceError
from backends.model import Endpoints, InferRequest, InferResponse, Models, State
from backends.tensors import Tensor
from gateway.access_log import NoLog
from gateway.kserve.dataplane import DataPlane
from gateway.plane import Plane
from gateway.registry import Connect, Registry
from gateway.settings import Settings
from gateway.snapshot import ModelStatus, Snapshot
from gateway.telemetry import Telemetry
from tests.gateway.kserve.tensor_models import Answer, Model, add_and_subtract

CODES = [None, None, *list(Code)]


def _text(tensor: Tensor) -> bytes:
    return bytes(tensor.data[4:])


def _texts(name: str, *texts: bytes) -> Tensor:
    return Tensor(name, "BYTES", (len(texts),), b"".join(struct.pack("<I", len(text)) + text for text in texts))


def _input(request: InferRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs if tensor.name == name), None)


def _number(request: InferRequest, name: str, default: int) -> int:
    tensor = _input(request, name)
    return default if tensor is None else int.from_bytes(tensor.data, "little", signed=True)


async def _identity(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = request.inputs[0]
    yield InferResponse([Tensor("OUTPUT0", tensor.datatype, tensor.shape, tensor.data)])


async def _all_types(request: InferRequest) -> AsyncIterator[InferResponse]:
    outputs = []
    for tensor in request.inputs:
        name = tensor.name.replace("IN_", "OUT_")
        if not request.outputs or name in request.outputs:
            data = bytes(map(bool, tensor.data)) if tensor.datatype == "BOOL" else tensor.data
            outputs.append(Tensor(name, tensor.datatype, tensor.shape, data))
    yield InferResponse(outputs)


async def _fail_exec(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = request.inputs[0]
    (kind,) = struct.unpack_from("<f", tensor.data)
    if kind == 0:
        message = "Failed to process the request(s) for model 'fail_exec_0_0', message: RuntimeError: boom\n\nAt:\n"
        yield InferResponse(error=InferenceError(f"{message}  /models/fail_exec/1/model.py(8): execute\n"))
    elif kind == 99:
        yield InferResponse([Tensor("OUTPUT0", "FP32", tensor.shape, tensor.data)])
    else:
        yield InferResponse(error=InferenceError(f"custom error {kind:.0f}", CODES[int(kind)] or Code.INTERNAL))


async def _gen_plain(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = _input(request, "text_input")
    assert tensor is not None
    text = _text(tensor)
    if text == b"FAIL":
        yield InferResponse(error=InferenceError("An Error Occurred"))
        return
    own = json.dumps(request.parameters, separators=(",", ":")).encode() if request.parameters else b""
    yield InferResponse([_texts("text_output", b"echo: " + text + (b"|" + own if own else b""))])


async def _gen_stream(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = _input(request, "text_input")
    assert tensor is not None
    text = _text(tensor)
    words = text.split()
    tokens = (words * 5)[: _number(request, "max_tokens", 4)] if words else []
    broken = InferResponse(error=InferenceError("An Error Occurred"))
    if text == b"FAIL":
        yield broken
    elif text == b"FAIL_MID":
        yield InferResponse([_texts("text_output", b"ok")], final=False)
        yield broken
    elif text == b"NONE":
        yield InferResponse()
    elif _number(request, "stream", 0):
        for token in tokens:
            yield InferResponse([_texts("text_output", token + b" ")], final=False)
        yield InferResponse()
    else:
        yield InferResponse([_texts("text_output", b" ".join(tokens))])


async def _repeat(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = _input(request, "IN")
    assert tensor is not None
    for index, (value,) in enumerate(struct.iter_unpack("<i", bytes(tensor.data))):
        outputs = [Tensor("OUT", "INT32", (1,), struct.pack("<i", value))]
        outputs.append(Tensor("IDX", "UINT32", (1,), struct.pack("<I", index)))
        yield InferResponse(outputs, final=False)
    yield InferResponse()


async def _params_echo(request: InferRequest) -> AsyncIterator[InferResponse]:
    told = {
        "parameters": request.parameters,
        "request_id": request.id,
        "correlation_id": request.sequence_id,
        "timeout": request.timeout_us,
    }
    yield InferResponse([_texts("PARAMS", json.dumps(told, sort_keys=True).encode())])


async def _bls_rag(request: InferRequest) -> AsyncIterator[InferResponse]:
    yield InferResponse([_texts("ANSWER", b"echo: ctx+" + _text(request.inputs[0]))])


async def _batch_probe(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = request.inputs[0]
    rows = tensor.shape[0]
    doubled = struct.pack(f"<{rows * 4}f", *(2 * x for (x,) in struct.iter_unpack("<f", bytes(tensor.data))))
    yield InferResponse(
        [
            Tensor("Y", "FP32", tensor.shape, doubled),
            Tensor("NREQ", "INT32", (rows, 1), struct.pack("<i", 1) * rows),
            Tensor("NROWS", "INT32", (rows, 1), struct.pack("<i", rows) * rows),
        ]
    )


async def _same(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = request.inputs[0]
    yield InferResponse([Tensor("OUT", tensor.datatype, tensor.shape, tensor.data)])


async def _accumulate(request: InferRequest) -> AsyncIterator[InferResponse]:
    if not request.sequence_start:
        error = InferenceError(
            f"inference request for sequence {request.sequence_id} to model 'seq_accumulate' must specify the START "
            "flag on the first request of the sequence",
            Code.INVALID_ARG,
        )
        yield InferResponse(error=error, is_refusal=True)
        return
    tensor = request.inputs[0]
    yield InferResponse([Tensor("OUTPUT", "INT32", tensor.shape, tensor.data)])


_SEQUENCE = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}


async def _ensemble(request: InferRequest) -> AsyncIterator[InferResponse]:
    async for response in add_and_subtract(InferRequest("simple", request.inputs)):
        names = {"OUTPUT0": "SUM2", "OUTPUT1": "DIFF2"}
        outputs = []
        for tensor in response.outputs:
            values = [2 * x for (x,) in struct.iter_unpack("<i", bytes(tensor.data))]
            data = struct.pack(f"<{len(values)}i", *values)
            outputs.append(Tensor(names[tensor.name], "INT32", tensor.shape, data))
        told = {
            **_SEQUENCE,
            "sequence_id": request.sequence_id,
            "sequence_start": request.sequence_start,
            "sequence_end": request.sequence_end,
        }
        yield InferResponse(outputs, parameters=told)


async def _ensemble_stream(request: InferRequest) -> AsyncIterator[InferResponse]:
    async for response in _gen_stream(request):
        response.parameters = dict(_SEQUENCE)
        yield response


ANSWERS: dict[str, Answer] = {
    "all_types": _all_types,
    "batch_probe": _batch_probe,
    "bls_rag": _bls_rag,
    "ens_addsub_double": _ensemble,
    "ens_stream": _ensemble_stream,
    "fail_exec": _fail_exec,
    "gen_plain": _gen_plain,
    "gen_stream": _gen_stream,
    "params_echo": _params_echo,
    "queue_policy": _same,
    "repeat_int32": _repeat,
    "seq_accumulate": _accumulate,
    "simple": add_and_subtract,
}


_NOT_FOUND = frozenset({"ens_missing", "wrong_name"})
_BROKEN = frozenset({"broken_init", "no_version", "unknown_backend"})
_COMPLETED = {
    "auto_complete": ModelConfig(
        "auto_complete",
        "python",
        max_batch_size=4,
        input=(Input("INPUT0", "TYPE_FP32", (4,)),),
        output=(Output("OUTPUT0", "TYPE_FP32", (4,)),),
        path="auto_complete/1",
    )
}


def plane_over(folder: Path, *, is_listenable: bool = True, **settings: object) -> tuple[Plane, DataPlane]:
    """A data plane over the models of a repository that can be read."""

    def connect(config: ModelConfig, _endpoints: Endpoints, _models: Models) -> Model:
        versioned = add_and_subtract if config.name.startswith("versioned") else _identity
        return Model(config, ANSWERS.get(config.name, versioned), is_listenable=is_listenable)

    def find_kind(_backend: str) -> Connect:
        return connect

    registry = Registry(find_kind, share=1, max_queue_size=8)
    statuses = []
    for config in repository.load([folder]):
        if isinstance(config, ModelConfig) and config.name not in _NOT_FOUND:
            state = State.FAILED if config.name in _BROKEN else State.READY
            statuses.append(ModelStatus(_COMPLETED.get(config.name, config), state))
    registry.apply(Snapshot(tuple(statuses), settled=True))
    plane = Plane(
        Settings(model_repository=(folder,), **settings), registry, None, Telemetry(registry.connections, NoLog())
    )
    return plane, DataPlane(registry)
