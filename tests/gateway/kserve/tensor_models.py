"""Tensor models without a worker: a data plane over them, and what became of each request."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from backends.config import Input, ModelConfig, Output, SequenceBatching, TransactionPolicy
from backends.errors import Code, InferenceError, ServingError
from backends.model import Endpoints, InferRequest, InferResponse, Models, State
from backends.statistics import ModelStatistics
from backends.tensors import Tensor
from ensembles.endpointless import Endpointless
from gateway.access_log import NoLog
from gateway.kserve.dataplane import DataPlane
from gateway.plane import Plane
from gateway.registry import Connect, Registry
from gateway.settings import Settings
from gateway.snapshot import ModelStatus, Snapshot
from gateway.telemetry import Telemetry

Answer = Callable[[InferRequest], AsyncIterator[InferResponse]]


class Model(Endpointless):
    """Answers by a generator. `requests` are those that came, `ended` counts those whose responses were closed."""

    capabilities: frozenset[Any] = frozenset()

    def __init__(self, config: ModelConfig, answer: Answer, *, is_listenable: bool = True) -> None:
        self.config = config
        self.is_listenable = is_listenable
        self.requests: list[InferRequest] = []
        self.ended = 0
        self._answer = answer

    def ready(self) -> bool:
        return True

    def infer(self, request: InferRequest) -> Responses:
        self.requests.append(request)
        return Responses(self, self._answer(request))

    async def statistics(self) -> ModelStatistics:
        return ModelStatistics(inference_count=len(self.requests))


class Responses:
    def __init__(self, model: Model, answers: AsyncIterator[InferResponse]) -> None:
        self._listening: asyncio.Task[None] | None = None
        self._model = model
        self._answers = answers
        self._is_open = True

    def __aiter__(self) -> Responses:
        return self

    async def __anext__(self) -> InferResponse:
        return await anext(self._answers)

    async def aclose(self) -> None:
        self._model.ended += self._is_open
        self._is_open = False
        await self._answers.aclose()

    def listen(self, listener: Callable[[InferResponse | ServingError], None]) -> None:
        async def tell() -> None:
            try:
                answer: InferResponse | ServingError = await anext(self)
            except ServingError as error:
                answer = error
            self._is_open = False
            listener(answer)

        self._listening = asyncio.create_task(tell())

    def leave(self) -> None:
        self._model.ended += self._is_open
        self._is_open = False
        if self._listening is not None:
            self._listening.cancel()


async def add_and_subtract(request: InferRequest) -> AsyncIterator[InferResponse]:
    first, second = (struct.unpack(f"<{tensor.size_bytes // 4}i", tensor.data) for tensor in request.inputs)
    results = {
        "OUTPUT0": [a + b for a, b in zip(first, second, strict=True)],
        "OUTPUT1": [a - b for a, b in zip(first, second, strict=True)],
    }
    shape = request.inputs[0].shape
    wanted = request.outputs or list(results)
    yield InferResponse(
        [Tensor(name, "INT32", shape, struct.pack(f"<{len(results[name])}i", *results[name])) for name in wanted]
    )


async def repeat(request: InferRequest) -> AsyncIterator[InferResponse]:
    """Each element as a response of its own; a negative one is an error, 0 waits for ever."""
    data = bytes(request.inputs[0].data)
    for (value,) in struct.iter_unpack("<i", data):
        if value == 0:
            await asyncio.Event().wait()
        if value < 0:
            yield InferResponse(error=InferenceError(f"negative: {value}", Code.INVALID_ARG), final=False)
        else:
            yield InferResponse([Tensor("OUT", "INT32", (1,), struct.pack("<i", value))], final=False)
    yield InferResponse()


async def identity(request: InferRequest) -> AsyncIterator[InferResponse]:
    tensor = request.inputs[0]
    yield InferResponse([Tensor("OUTPUT0", tensor.datatype, tensor.shape, tensor.data)])


async def wait(request: InferRequest) -> AsyncIterator[InferResponse]:
    """What comes in goes out; 0 is never answered, a negative number is an error."""
    (value,) = struct.unpack("<f", request.inputs[0].data)
    if value == 0:
        await asyncio.Event().wait()
    if value < 0:
        raise InferenceError("negative", Code.INVALID_ARG)
    yield InferResponse([Tensor("OUTPUT0", "FP32", (1,), request.inputs[0].data)])


_INT32 = [Input("INPUT0", "TYPE_INT32", (16,)), Input("INPUT1", "TYPE_INT32", (16,))]
_OUTPUTS = [Output("OUTPUT0", "TYPE_INT32", (16,), label_filename="labels.txt"), Output("OUTPUT1", "TYPE_INT32", (16,))]
CONFIGS: dict[str, tuple[ModelConfig, Answer]] = {
    "simple": (
        ModelConfig("simple", "simple", max_batch_size=8, input=tuple(_INT32), output=tuple(_OUTPUTS), version=1),
        add_and_subtract,
    ),
    "repeat": (
        ModelConfig(
            "repeat",
            "repeat",
            input=(Input("IN", "TYPE_INT32", (-1,)),),
            output=(Output("OUT", "TYPE_INT32", (1,)),),
            model_transaction_policy=TransactionPolicy(decoupled=True),
        ),
        repeat,
    ),
    "identity": (
        ModelConfig(
            "identity",
            "identity",
            input=(Input("INPUT0", "TYPE_FP32", (-1,)),),
            output=(Output("OUTPUT0", "TYPE_FP32", (-1,)),),
        ),
        identity,
    ),
    "sequence": (
        ModelConfig(
            "sequence",
            "sequence",
            input=(Input("INPUT0", "TYPE_FP32", (-1,)),),
            output=(Output("OUTPUT0", "TYPE_FP32", (-1,)),),
            sequence_batching=SequenceBatching(),
        ),
        identity,
    ),
    "waiter": (
        ModelConfig(
            "waiter",
            "waiter",
            input=(Input("INPUT0", "TYPE_FP32", (1,)),),
            output=(Output("OUTPUT0", "TYPE_FP32", (1,)),),
        ),
        wait,
    ),
}


def plane_of(**settings: Any) -> tuple[Plane, DataPlane, dict[str, Model]]:
    """A data plane over these models."""
    models: dict[str, Model] = {}

    def find_kind(backend: str) -> Connect:
        def connect(config: ModelConfig, _endpoints: Endpoints, _models: Models) -> Model:
            models[config.name] = Model(config, CONFIGS[backend][1])
            return models[config.name]

        return connect

    registry = Registry(find_kind, share=1, max_queue_size=8)
    registry.apply(Snapshot(tuple(ModelStatus(config, State.READY) for config, _ in CONFIGS.values()), settled=True))
    plane = Plane(
        Settings(model_repository=(Path("models"),), **settings),
        registry,
        None,
        Telemetry(registry.connections, NoLog()),
    )
    return plane, DataPlane(registry), models


def identity_request(elements: int) -> bytes:
    """The bytes of a `ModelInferRequest` to `identity` with so many elements."""
    request = pb.ModelInferRequest(model_name="identity")
    request.inputs.add(name="INPUT0", datatype="FP32", shape=(elements,))
    request.raw_input_contents.append(bytes(4 * elements))
    return request.SerializeToString()
