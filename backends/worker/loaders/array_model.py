"""Models of libraries that take arrays and give arrays: a batch becomes one run, its rows go back as views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.tensors import DATATYPE_OF_TYPE
from backends.worker.exchange import Answer, Request
from backends.worker.frames import heads
from backends.worker.loaders.arrays import DTYPES, Array, to_array, to_tensor
from backends.worker.loaders.assembly import batch_inputs, parts
from backends.worker.messages import Respond


class Session(Protocol):
    """A loaded model of a library. Not to be used by two threads at once."""

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
        """The wanted outputs, in this order, as arrays of their own. Raises `InferenceError` in the library's words."""
        ...

    def close(self) -> None:
        """Give back what the library holds."""
        ...


class ArrayModel:
    """An `Executable` over a `Session`, by the inputs and outputs of a complete configuration.

    Shapes are those that the model sees: a `reshape` has happened before, and is undone afterwards, elsewhere.
    """

    def __init__(self, config: ModelConfig, session: Session) -> None:
        self._session = session
        self._name = config.name
        self._is_batched = config.max_batch_size > 0
        self._ragged = frozenset(entry.name for entry in config.input if entry.allow_ragged_batch)
        self._datatypes = {entry.name: DATATYPE_OF_TYPE[entry.data_type] for entry in config.output}
        states = config.sequence_batching.state if config.sequence_batching is not None else ()
        for state in states:
            self._datatypes.setdefault(state.output_name, DATATYPE_OF_TYPE[state.data_type])
        self._batch_inputs = config.batch_input
        self._scattered = {name: output for output in config.batch_output for name in output.target_name}
        self._states = tuple(state.output_name for state in states)
        self._all = tuple(self._datatypes)

    def execute(self, requests: Sequence[Request]) -> Sequence[Answer]:
        return run_together(self._run, requests)

    def finalize(self) -> None:
        self._session.close()

    def _run(self, requests: Sequence[Request]) -> list[Answer]:
        asked = [self._asked(request) for request in requests]
        wanted = tuple(name for name in self._all if any(name in names for names in asked))
        results = dict(zip(wanted, self._session.run(self._feeds(requests), wanted), strict=True))
        for name, array in results.items():
            dtype = DTYPES[self._datatypes[name]]
            if dtype not in (array.dtype, object):
                raise self._wrong(name, f"of {array.dtype} instead of {dtype}")
        if not self._is_batched:
            return [self._answer(requests[0], asked[0], results)]
        split = {name: self._split(name, array, requests) for name, array in results.items()}
        return [
            self._answer(request, names, {name: members[index] for name, members in split.items()})
            for index, (request, names) in enumerate(zip(requests, asked, strict=True))
        ]

    def _split(self, name: str, array: Array, requests: Sequence[Request]) -> list[Array]:
        """Each member's part of an output: its own rows, or what has the shape of its own input."""
        scattered = self._scattered.get(name)
        if scattered is not None:
            members = parts(scattered, _shapes(requests))
            if array.size != members[-1][1]:
                raise self._wrong(name, f"of {array.size} elements for a batch of {members[-1][1]}")
            flat = array.reshape(-1)
            return [flat[start:end].reshape(shape) for start, end, shape in members]
        counts = [rows(request) for request in requests]
        if array.shape[:1] != (sum(counts),):
            raise self._wrong(name, f"of shape {list(array.shape)} for a batch of {sum(counts)}")
        ends = list(accumulate(counts))
        return [array[end - count : end] for count, end in zip(counts, ends, strict=True)]

    def _asked(self, request: Request) -> Sequence[str]:
        return (*request.head.outputs, *self._states) if request.head.outputs else self._all

    def _feeds(self, requests: Sequence[Request]) -> dict[str, Array]:
        """The inputs of all members, each copied once to stand together; a single member's are used where they are."""
        members: dict[str, list[Array]] = {}
        try:
            for request in requests:
                for tensor in request.inputs:
                    members.setdefault(tensor.name, []).append(to_array(tensor))
            feeds = {name: self._joined(name, arrays) for name, arrays in members.items()}
        except ValueError as error:
            raise InferenceError(f"the inputs do not fit together: {error}", Code.INVALID_ARG) from error
        if self._batch_inputs:
            feeds |= {made.name: to_array(made) for made in batch_inputs(self._batch_inputs, _shapes(requests))}
        return feeds

    def _joined(self, name: str, arrays: list[Array]) -> Array:
        if self._is_batched and name in self._ragged:
            arrays = [array.reshape(-1) for array in arrays]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def _answer(self, request: Request, names: Sequence[str], results: Mapping[str, Array]) -> Answer:
        outputs = [to_tensor(name, self._datatypes[name], array) for name, array in results.items() if name in names]
        return Respond(request.head.id, heads(outputs)), outputs

    def _wrong(self, name: str, how: str) -> InferenceError:
        return InferenceError(f"model '{self._name}' gave output '{name}' {how}", Code.INTERNAL)


def rows(request: Request) -> int:
    """How many rows of a batch a member has."""
    shape = request.inputs[0].shape
    return shape[0] if shape else 1


def _shapes(requests: Sequence[Request]) -> list[dict[str, tuple[int, ...]]]:
    return [{tensor.name: tensor.shape for tensor in request.inputs} for request in requests]


def run_together(run: Callable[[Sequence[Request]], list[Answer]], requests: Sequence[Request]) -> list[Answer]:
    """Run a batch at once; where that fails, each member by itself, so that one bad member fails alone."""
    try:
        return run(requests)
    except InferenceError as error:
        if len(requests) == 1:
            return [failure(requests[0], error)]
    answers: list[Answer] = []
    for request in requests:
        try:
            answers += run([request])
        except InferenceError as error:
            answers.append(failure(request, error))
    return answers


def failure(request: Request, error: InferenceError) -> Answer:
    return Respond(request.head.id, error=error.status, message=error.message), ()
