"""Texts of one request on their way through a tensor model: sent as batches, so that any number of them is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.model import InferRequest, InferResponse, OpenAIRequest, Scalar, TensorModel
from backends.tensors import Tensor, join
from backends.worker.text import USAGE

_TRACEPARENT = b"traceparent"
_SPARE = 2


@dataclass(slots=True)
class Rows:
    """What the model made of each row, in the order of the texts, and how many tokens they were."""

    outputs: list[memoryview]
    tokens: int = 0


def empty(count: int) -> Rows:
    """So many rows, of which nothing is known yet."""
    return Rows([memoryview(b"")] * count)


async def run(
    model: TensorModel,
    columns: Mapping[str, Sequence[bytes]],
    parameters: Mapping[str, Scalar],
    request: OpenAIRequest,
) -> Rows:
    """Run rows of texts, one column an input of the model. Raises `ServingError`; leaving cancels what is under way.

    Rows of like length go together, and no more at a time than keep the instances busy: the rows of others come
    between those of a long list.
    """
    config = model.config
    lengths = [sum(map(len, row)) for row in zip(*columns.values(), strict=True)]
    size = max(1, config.max_batch_size)
    order: Sequence[int] = range(len(lengths))
    if len(lengths) > size:
        order = sorted(order, key=lengths.__getitem__)
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    rows = empty(len(lengths))
    if len(parts) == 1:
        await _run_part(model, columns, parameters, request, parts[0], rows)
        return rows
    places = asyncio.Semaphore(_instances(config) + _SPARE)

    async def run_in_turn(part: Sequence[int]) -> None:
        async with places:
            await _run_part(model, columns, parameters, request, part, rows)

    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(run_in_turn(part))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return rows


def inference(
    model: TensorModel,
    columns: Mapping[str, Sequence[bytes]],
    parameters: Mapping[str, Scalar],
    request: OpenAIRequest,
    part: Sequence[int],
) -> InferRequest:
    """One inference of these rows."""
    shape = (len(part), 1)
    inputs = [Tensor(name, "BYTES", shape, join([column[i] for i in part])) for name, column in columns.items()]
    return InferRequest(
        model=model.config.name,
        version=model.config.version,
        inputs=inputs,
        parameters=dict(parameters),
        priority=request.priority,
        deadline=request.deadline,
        tenant=request.tenant,
        traceparent=next((value.decode("latin-1") for name, value in request.headers if name == _TRACEPARENT), ""),
    )


def put(response: InferResponse | None, part: Sequence[int], rows: Rows, name: str) -> None:
    """What an inference of these rows of the model `name` gave, in its place. Raises `ServingError`."""
    if response is None or response.is_empty:
        raise InferenceError(f"the model '{name}' gave no answer", Code.INTERNAL)
    if response.error is not None:
        raise response.error
    (output,) = response.outputs
    data = memoryview(output.data).cast("B")
    width = data.nbytes // len(part)
    for place, i in enumerate(part):
        rows.outputs[i] = data[place * width : (place + 1) * width]
    rows.tokens += int(response.parameters.get(USAGE, 0))


async def _run_part(
    model: TensorModel,
    columns: Mapping[str, Sequence[bytes]],
    parameters: Mapping[str, Scalar],
    request: OpenAIRequest,
    part: Sequence[int],
    rows: Rows,
) -> None:
    responses = model.infer(inference(model, columns, parameters, request, part))
    try:
        response = await anext(responses, None)
    finally:
        await responses.aclose()
    put(response, part, rows, model.config.name)


def _instances(config: ModelConfig) -> int:
    return sum(group.count * max(1, len(group.gpus)) for group in config.instance_group) or 1
