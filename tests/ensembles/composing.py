"""Fake models to compose ensembles of, and the configuration of an ensemble in few words."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from backends.config import EnsembleScheduling, EnsembleStep, Input, ModelConfig, Output, TransactionPolicy
from backends.errors import Code, InferenceError
from backends.model import InferRequest, InferResponse, TensorModel
from backends.statistics import ModelStatistics
from backends.tensors import Tensor
from ensembles.endpointless import Endpointless
from ensembles.graph import Ensemble, connect

Answer = Callable[[InferRequest], AsyncIterator[InferResponse]]


def numbers(name: str, *values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(name, "INT32", (len(values),) if shape is None else shape, struct.pack(f"<{len(values)}i", *values))


def values(tensor: Tensor) -> list[int]:
    return list(struct.unpack(f"<{tensor.size_bytes // 4}i", tensor.data))


def text(name: str, value: str) -> Tensor:
    data = value.encode()
    return Tensor(name, "BYTES", (1,), struct.pack("<I", len(data)) + data)


def config(
    name: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    max_batch_size: int = 0,
    decoupled: bool = False,
    version: int = 1,
) -> ModelConfig:
    """A model by its tensors: `{"IN": "INT32 [-1] optional"}`."""
    return ModelConfig(
        name,
        "python",
        max_batch_size=max_batch_size,
        input=tuple(
            Input(key, data_type=f"TYPE_{kind}", dims=dims, optional=optional)
            for key, (kind, dims, optional) in ((key, _tensor(value)) for key, value in inputs.items())
        ),
        output=tuple(
            Output(key, data_type=f"TYPE_{kind}", dims=dims)
            for key, (kind, dims, _) in ((key, _tensor(value)) for key, value in outputs.items())
        ),
        model_transaction_policy=TransactionPolicy(decoupled),
        version=version,
    )


def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str], version: int = -1) -> EnsembleStep:
    return EnsembleStep(model, version, dict(inputs), dict(outputs))


def ensemble_config(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *steps: EnsembleStep,
    name: str = "ens",
    max_batch_size: int = 0,
    decoupled: bool = False,
    max_inflight_requests: int = 0,
) -> ModelConfig:
    plain = config(name, inputs, outputs, max_batch_size=max_batch_size, decoupled=decoupled)
    scheduling = EnsembleScheduling(steps, max_inflight_requests)
    return ModelConfig(
        **{field: getattr(plain, field) for field in plain.__struct_fields__}
        | {"backend": "ensemble", "platform": "ensemble", "ensemble_scheduling": scheduling}
    )


def _tensor(words: str) -> tuple[str, tuple[int, ...], bool]:
    kind, dims, *rest = words.replace(", ", ",").split()
    return kind, tuple(int(size) for size in dims.strip("[]").split(",") if size), "optional" in rest


class Fake(Endpointless):
    """A model whose answers a coroutine makes; keeps what it was asked and what became of it."""

    def __init__(self, config: ModelConfig, answer: Answer) -> None:
        self.config = config
        self.capabilities: frozenset[str] = frozenset()
        self.asked: list[InferRequest] = []
        self.open = 0
        self.most_open = 0
        self.cancelled = 0
        self.is_ready = True
        self._answer = answer

    def ready(self) -> bool:
        return self.is_ready

    def infer(self, request: InferRequest) -> FakeResponses:
        self.asked.append(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return FakeResponses(self, self._answer(request))

    async def statistics(self) -> ModelStatistics:
        return ModelStatistics()


class FakeResponses:
    """Works at once, as a worker does, and holds what nobody has read yet."""

    def __init__(self, model: Fake, answers: AsyncIterator[InferResponse]) -> None:
        self._model = model
        self._queue: asyncio.Queue[InferResponse | BaseException] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._work(answers))
        self._has_ended = False

    async def _work(self, answers: AsyncIterator[InferResponse]) -> None:
        try:
            async for answer in answers:
                self._queue.put_nowait(answer)
        except InferenceError as error:
            self._queue.put_nowait(error)

    def __aiter__(self) -> FakeResponses:
        return self

    async def __anext__(self) -> InferResponse:
        if self._has_ended:
            raise StopAsyncIteration
        answer = await self._queue.get()
        if isinstance(answer, BaseException):
            self._leave()
            raise answer
        if answer.final:
            self._leave()
        return answer

    async def aclose(self) -> None:
        if not self._has_ended:
            self._leave()
            self._model.cancelled += 1
        self._task.cancel()
        await asyncio.wait([self._task])

    def _leave(self) -> None:
        self._has_ended = True
        self._model.open -= 1


def mapping(name: str, compute: Callable[[int], int], **options: int) -> Fake:
    """A model that makes OUT of IN, value by value."""

    async def answer(request: InferRequest) -> AsyncIterator[InferResponse]:
        (tensor,) = request.inputs
        yield InferResponse([numbers("OUT", *map(compute, values(tensor)), shape=tensor.shape)])

    return Fake(config(name, {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}, **options), answer)


def repeating(name: str = "repeat", pause: Callable[[], Awaitable[None]] | None = None) -> Fake:
    """A decoupled model that answers each value of IN by one response, and the end by an empty one."""

    async def answer(request: InferRequest) -> AsyncIterator[InferResponse]:
        for value in values(request.inputs[0]):
            if pause is not None:
                await pause()
            yield InferResponse([numbers("OUT", value)], final=False)
        yield InferResponse()

    return Fake(config(name, {"IN": "INT32 [-1]"}, {"OUT": "INT32 [1]"}, decoupled=True), answer)


def failing(name: str, error: InferenceError) -> Fake:
    async def answer(request: InferRequest) -> AsyncIterator[InferResponse]:  # noqa: ARG001
        yield InferResponse(error=error)

    return Fake(config(name, {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), answer)


@dataclass
class FakeModels:
    """Models by name; `versions` are those of one name."""

    named: dict[str, Fake | Ensemble] = field(default_factory=dict)
    versions: dict[tuple[str, int], Fake] = field(default_factory=dict)

    def tensor(self, name: str, version: int = 0) -> TensorModel:
        found = self.versions.get((name, version)) or self.named.get(name)
        if found is None:
            raise InferenceError(f"Request for unknown model: '{name}' is not found", Code.NOT_FOUND)
        return found

    def openai(self, name: str) -> object:
        raise AssertionError(name)


def ensemble(configuration: ModelConfig, *fakes: Fake) -> Ensemble:
    return connect(configuration, None, FakeModels({fake.config.name: fake for fake in fakes}))


async def ask(model: Ensemble, *inputs: Tensor, outputs: Sequence[str] = (), **fields: object) -> list[InferResponse]:
    """All responses to one request."""
    responses = model.infer(InferRequest(model.config.name, list(inputs), outputs=list(outputs), **fields))
    try:
        return [response async for response in responses]
    finally:
        await responses.aclose()
