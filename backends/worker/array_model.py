"""Models of libraries that take arrays and give arrays: a batch becomes one run, its rows go back as views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.tensors import DATATYPE_OF_TYPE, Tensor
from backends.worker.arrays import DTYPES, Array, to_array, to_tensor
from backends.worker.exchange import Answer, Request
from backends.worker.frames import heads
from backends.worker.messages import Respond


class Session(Protocol):
    """A loaded model of a library. Not to be used by two threads at once."""

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
        """The wanted outputs, in this order, as arrays of their own. Raises `InferenceError` in the library's words."""
        ...

    def close(self) -> None:
        """Give back what the library holds."""
        ...


@dataclass(frozen=True, slots=True)
class _Result:
    """An output of a run as the configuration has it; `shape` is what the model itself makes of `dims`, if not that."""

    name: str
    datatype: str
    dims: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None


class ArrayModel:
    """An `Executable` over a `Session`, by the inputs and outputs of a complete configuration."""

    def __init__(self, config: ModelConfig, session: Session) -> None:
        self._session = session
        self._name = config.name
        self._is_batched = config.max_batch_size > 0
        self._inputs = {entry.name: entry for entry in config.input}
        self._outputs = {
            entry.name: _Result(
                entry.name,
                DATATYPE_OF_TYPE[entry.data_type],
                entry.dims,
                entry.reshape.shape if entry.reshape else None,
            )
            for entry in config.output
        }
        states = config.sequence_batching.state if config.sequence_batching is not None else ()
        for state in states:
            self._outputs.setdefault(state.output_name, _Result(state.output_name, DATATYPE_OF_TYPE[state.data_type]))
        self._states = tuple(state.output_name for state in states)
        self._all = tuple(self._outputs)

    def execute(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Run the batch at once; where that fails, each member by itself, so that one bad member fails alone."""
        try:
            return self._run(requests)
        except InferenceError as error:
            if len(requests) == 1:
                return [failure(requests[0], error)]
        answers: list[Answer] = []
        for request in requests:
            try:
                answers += self._run([request])
            except InferenceError as error:
                answers.append(failure(request, error))
        return answers

    def finalize(self) -> None:
        self._session.close()

    def _run(self, requests: Sequence[Request]) -> list[Answer]:
        asked = [self._asked(request) for request in requests]
        wanted = tuple(name for name in self._all if any(name in names for names in asked))
        arrays = self._session.run(self._feeds(requests), wanted)
        results = [(self._outputs[name], self._shaped(name, array)) for name, array in zip(wanted, arrays, strict=True)]
        if not self._is_batched:
            return [_answer(requests[0], asked[0], results)]
        counts = [rows(request) for request in requests]
        total = sum(counts)
        for result, array in results:
            if not array.ndim or array.shape[0] != total:
                raise InferenceError(
                    f"model '{self._name}' gave output '{result.name}' of shape {list(array.shape)}"
                    f" for a batch of {total}",
                    Code.INTERNAL,
                )
        answers: list[Answer] = []
        start = 0
        for request, names, count in zip(requests, asked, counts, strict=True):
            part = [(result, array[start : start + count]) for result, array in results]
            answers.append(_answer(request, names, part))
            start += count
        return answers

    def _asked(self, request: Request) -> Sequence[str]:
        return (*request.head.outputs, *self._states) if request.head.outputs else self._all

    def _feeds(self, requests: Sequence[Request]) -> dict[str, Array]:
        """The inputs of all members, each copied once to stand together; a single member's are used where they are."""
        parts: dict[str, list[Array]] = {}
        try:
            for request in requests:
                for tensor in request.inputs:
                    parts.setdefault(tensor.name, []).append(to_array(tensor))
            return {name: self._joined(name, arrays) for name, arrays in parts.items()}
        except ValueError as error:
            raise InferenceError(f"the inputs do not fit together: {error}", Code.INVALID_ARG) from error

    def _joined(self, name: str, arrays: list[Array]) -> Array:
        entry = self._inputs.get(name)
        if entry is not None and entry.allow_ragged_batch and self._is_batched:
            return arrays[0].reshape(-1) if len(arrays) == 1 else np.concatenate([array.ravel() for array in arrays])
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return (
            array if entry is None or entry.reshape is None else self._reshape(array, entry.dims, entry.reshape.shape)
        )

    def _reshape(self, array: Array, before: tuple[int, ...], after: tuple[int, ...]) -> Array:
        """As Triton's `reshape`: variable dimensions keep their order and their sizes."""
        batch = array.shape[: int(self._is_batched)]
        sizes = iter([size for size, dim in zip(array.shape[len(batch) :], before, strict=True) if dim < 0])
        return array.reshape(batch + tuple(next(sizes) if dim < 0 else dim for dim in after))

    def _shaped(self, name: str, array: Array) -> Array:
        """An output in the type and the shape that the configuration says it has."""
        result = self._outputs[name]
        dtype = DTYPES[result.datatype]
        if dtype not in (array.dtype, object):
            raise InferenceError(
                f"model '{self._name}' gave output '{name}' of {array.dtype} instead of {dtype}", Code.INTERNAL
            )
        return array if result.shape is None else self._reshape(array, result.shape, result.dims)


def rows(request: Request) -> int:
    """How many rows of a batch a member has."""
    shape = request.inputs[0].shape
    return shape[0] if shape else 1


def failure(request: Request, error: InferenceError) -> Answer:
    return Respond(request.head.id, error=error.status, message=error.message), ()


def _answer(request: Request, names: Sequence[str], results: Sequence[tuple[_Result, Array]]) -> Answer:
    outputs: list[Tensor] = [
        to_tensor(result.name, result.datatype, array) for result, array in results if result.name in names
    ]
    return Respond(request.head.id, heads(outputs)), outputs
