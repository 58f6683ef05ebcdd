"""One execution of a step: a composing model asked, and its answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

from backends.errors import ServingError
from backends.model import Holdable, InferResponse, Responses, Scalar, TensorModel
from backends.signature import Signature
from backends.tensors import Tensor
from backends.trace import Trace
from ensembles.plan import Step
from ensembles.slots import Slots

Sequence = tuple[int | str, bool, bool]
"""Correlation id, start, end."""

E = TypeVar("E", bound=ServingError)
_END = InferResponse()


@dataclass(slots=True)
class Bound:
    """A composing model as a request found it. `dims` are those of its inputs.

    `held` is the model where it wants to know that it is held.
    """

    model: TensorModel
    signature: Signature
    dims: Mapping[str, tuple[int, ...]]
    is_decoupled: bool
    held: Holdable | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an ensemble's tensor; `tensor` is None for an optional one that is not there.

    `batch` is the batch's size where it comes from, 0 where there are no batches. `sequence` is what its step says.
    """

    tensor: Tensor | None
    batch: int
    sequence: Sequence | None = None


@dataclass(slots=True, eq=False)
class Execution:
    """A step under way. Answers wait in `held` while an earlier execution of the step has not ended."""

    step: Step
    bound: Bound
    responses: Responses
    batch: int
    sequence: Sequence
    slots: Slots | None
    trace: Trace | None = None
    task: asyncio.Task[InferResponse] | None = None
    held: list[InferResponse] = field(default_factory=list)
    has_ended: bool = False

    def pull(self) -> asyncio.Task[InferResponse]:
        """The task that waits for the next answer."""
        if self.task is None:
            self.task = asyncio.ensure_future(following(self.responses))
            if self.slots is not None:
                # Its place is free with its last answer, not only when a slow client comes to read that.
                self.task.add_done_callback(self._arrived)
        return self.task

    def leave(self) -> None:
        """Give its place back."""
        slots, self.slots = self.slots, None
        if slots is not None:
            slots.give_back()

    async def aclose(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # nobody asks for it any more
        await self.responses.aclose()
        if self.trace is not None:
            self.trace.finish()
        self.leave()

    def _arrived(self, task: asyncio.Task[InferResponse]) -> None:
        if task.cancelled() or task.exception() is not None or task.result().final:
            self.leave()


async def following(responses: Responses) -> InferResponse:
    """The next answer; the mere end where there is none."""
    try:
        return await responses.__anext__()
    except StopAsyncIteration:
        return _END


def in_ensemble(error: E, name: str) -> E:
    """The error as that of an ensemble."""
    named = copy(error)
    named.message = f"in ensemble '{name}', {error.message}"
    named.args = (named.message,)
    return named


def overridden(parameters: Mapping[str, Scalar], sequence: Sequence) -> Sequence:
    """What a step's answer says of the sequence, for those that take its tensors."""
    if parameters.keys().isdisjoint({"sequence_id", "sequence_start", "sequence_end"}):
        return sequence
    sequence_id = parameters.get("sequence_id", sequence[0])
    if not isinstance(sequence_id, str):
        sequence_id = int(sequence_id)
    return sequence_id, bool(parameters.get("sequence_start", False)), bool(parameters.get("sequence_end", False))


def fitted(shape: tuple[int, ...], batch: int, dims: tuple[int, ...], *, is_batched: bool) -> tuple[int, ...]:
    """A shape as a model takes it that has batches where the tensor's source has none, or the other way round.

    A tensor of the declared dimensions becomes a batch of one; a batch of one loses its dimension where it does not
    fit as it is. All else is left to the model's check.
    """
    if is_batched and not batch:
        return (1, *shape) if _matches(shape, dims) else shape
    if not is_batched and batch == 1:
        return shape if _matches(shape, dims) else shape[1:]
    return shape


def _matches(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    return len(shape) == len(dims) and all(declared in {-1, size} for size, declared in zip(shape, dims, strict=True))
