"""A `TensorModel` in this process: answers what a function makes of each row, and tells what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.config import ModelConfig
from backends.errors import InferenceError
from backends.model import InferRequest, InferResponse
from backends.statistics import ModelStatistics
from backends.tensors import Tensor, elements


class Answers:
    """One answer, once `begin` lets it."""

    def __init__(self, model: RowModel, response: InferResponse) -> None:
        self._model = model
        self._response = response
        self._told = False

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> InferResponse:
        if self._told:
            raise StopAsyncIteration
        self._told = True
        self._model.running += 1
        self._model.most_running = max(self._model.most_running, self._model.running)
        await self._model.gate.wait()
        self._model.running -= 1
        return self._response

    async def aclose(self) -> None:
        self._model.closed += 1


class RowModel:
    """`answer` makes the bytes of one row of the output of that row's bytes, one of each input."""

    parallelism = None
    capabilities: frozenset = frozenset()

    def __init__(self, config: ModelConfig, answer: Callable[..., bytes], error: InferenceError | None = None) -> None:
        self.config = config
        self.asked: list[InferRequest] = []
        self.closed = self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._answer = answer
        self._error = error

    def infer(self, request: InferRequest) -> Answers:
        self.asked.append(request)
        if self._error is not None:
            return Answers(self, InferResponse(error=self._error))
        columns = [elements(tensor.data) for tensor in request.inputs]
        rows = [self._answer(*row) for row in zip(*columns, strict=True)]
        output = Tensor(self.config.output[0].name, "FP32", (len(rows), len(rows[0]) // 4), b"".join(rows))
        tokens = sum(len(element) for column in columns for element in column)
        return Answers(self, InferResponse([output], {"prompt_tokens": tokens}))

    async def statistics(self) -> ModelStatistics:
        return ModelStatistics()

    def ready(self) -> bool:
        return True

    def work(self) -> dict[str, int]:
        return {}

    def connections(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        pass
