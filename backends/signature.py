"""What a model takes: a request's tensors checked against its configuration, in Triton's words, before anything runs.

A signature is compiled once from a configuration. A request that fits costs a few look-ups; one that does not is
looked at again, in the order in which Triton looks, to say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from backends.config import Input, ModelConfig, Output
from backends.errors import Code, InferenceError
from backends.model import InferRequest
from backends.tensors import DATATYPE_OF_TYPE, ELEMENT_BYTES, Buffer, Tensor

_WITH_BATCH = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)
_LENGTH_BYTES = 4
_BATCH_SIZES = 2**32
"""Triton counts a batch in 32 bits, so that one below 0 is a large one to it."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """One declared input. `item_bytes` is the size of one member of a batch where every dimension is fixed, else -1."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    element_bytes: int
    item_bytes: int
    optional: bool


class Signature:
    """The inputs and outputs of one configuration. `is_batched`: each shape begins with the batch's size."""

    def __init__(self, config: ModelConfig) -> None:
        self._name = config.name
        self._limit = config.max_batch_size
        self.is_batched = config.max_batch_size > 0
        self._slots = {tensor.name: _slot(tensor) for tensor in config.input}
        self._required = [tensor.name for tensor in config.input if not tensor.optional]
        self._outputs = frozenset(output.name for output in config.output)
        self._reshapes = _reshapes(config.input)
        self._output_reshapes = _reshapes(config.output)
        self.reshapes_outputs = bool(self._output_reshapes)
        self._is_sequence = config.sequence_batching is not None
        # An iterative sequence is one request, which needs no name.
        self._is_iterative = config.sequence_batching is not None and config.sequence_batching.iterative_sequence

    def admit(self, request: InferRequest) -> None:
        """Check a request, and give its inputs the shapes that the model is to see (`reshape`).

        Raises `InferenceError`. Nothing is allocated by what a request merely declares.
        """
        if not self._fits(request):
            self._refuse(request)
        if self._is_sequence:
            self._check_sequence(request)
        if self._reshapes:
            for tensor in request.inputs:
                if tensor.name in self._reshapes:
                    self._reshape(tensor, *self._reshapes[tensor.name])

    def raw(self, data: Buffer) -> Tensor:
        """The one input of a model, from bytes that came without a name or a shape. Raises `InferenceError`."""
        if len(self._slots) != 1:
            raise _unfit(
                "",
                f"Raw request must only have 1 input (found 1) to be deduced but got {len(self._slots)} inputs in "
                f"'{self._name}' model configuration",
            )
        slot = next(iter(self._slots.values()))
        open_axes = slot.dims.count(-1)
        count = prod(size for size in slot.dims if size != -1)
        if slot.datatype == "BYTES":
            if open_axes or count != 1:
                raise _unfit("", f"For BYTE datatype raw input '{slot.name}', the model must have input shape [1]")
            data = len(data).to_bytes(_LENGTH_BYTES, "little") + bytes(data)
        elif open_axes > 1:
            raise _unfit(
                "",
                f"The shape of the raw input '{slot.name}' can not be deduced because there are more than one "
                "variable-sized dimension",
            )
        fill = len(data) // (count * slot.element_bytes) if count and slot.element_bytes else 0
        shape = tuple(fill if size == -1 else size for size in slot.dims)
        expected = prod(shape) * slot.element_bytes
        if slot.datatype != "BYTES" and expected != len(data):
            raise self._wrong_size("raw_input", expected, len(data), "")
        return Tensor(slot.name, slot.datatype, (1, *shape) if self.is_batched else shape, data)

    def reshape_outputs(self, outputs: list[Tensor]) -> None:
        """Give outputs the shapes that callers are to see (`reshape`)."""
        for tensor in outputs:
            if tensor.name in self._output_reshapes:
                dims, reshape = self._output_reshapes[tensor.name]
                self._reshape(tensor, reshape, dims)

    def _fits(self, request: InferRequest) -> bool:
        inputs = request.inputs
        batch = 1
        if self.is_batched and inputs:
            first = inputs[0].shape
            if not first or not 0 < (batch := first[0]) <= self._limit:
                return False
        required = 0
        for tensor in inputs:
            slot = self._slots.get(tensor.name)
            if slot is None or tensor.datatype != slot.datatype:
                return False
            required += not slot.optional
            shape = tensor.shape
            if self.is_batched:
                if not shape or shape[0] != batch:
                    return False
                shape = shape[1:]
            if shape == slot.dims and slot.item_bytes >= 0:
                if tensor.size_bytes != batch * slot.item_bytes:
                    return False
            elif not _matches(shape, slot.dims) or not _is_whole(tensor, slot):
                return False
        if required != len(self._required) or _has_twins(inputs):
            return False
        return not request.outputs or self._outputs.issuperset(request.outputs)

    def _refuse(self, request: InferRequest) -> None:
        """Say what is wrong. The last input stands first: so Triton's own table has them."""
        inputs = request.inputs[::-1]
        seen = set()
        for tensor in request.inputs:
            if tensor.name in seen:
                raise repeated(request.id, tensor.name)
            seen.add(tensor.name)
        for output in sorted(request.outputs):
            if output not in self._outputs:
                raise InferenceError(
                    f"unexpected inference output '{output}' for model '{self._name}'", Code.INVALID_ARG
                )
        if not len(self._required) <= len(inputs) <= len(self._slots):
            raise self._wrong_count(request, inputs)
        batch = self._batch_size(request, inputs) if self.is_batched else 0
        for tensor in inputs:
            self._check_tensor(request, tensor, self._slot(tensor), batch)
        if any(name not in seen for name in self._required):
            raise self._wrong_count(request, inputs)

    def _wrong_count(self, request: InferRequest, inputs: Sequence[Tensor]) -> InferenceError:
        least, most = len(self._required), len(self._slots)
        expected = (
            f"expected {most} inputs" if least == most else f"expected number of inputs between {least} and {most}"
        )
        given = {tensor.name for tensor in inputs}
        missing = [name for name in self._required if name not in given]
        lacking = f"[{_quoted(missing)}]" if missing else "]"
        return _unfit(
            request.id,
            f"{expected} but got {len(inputs)} inputs for model '{self._name}'. Got input(s) "
            f"[{_quoted([tensor.name for tensor in inputs])}], but missing required input(s) {lacking}. "
            "Please provide all required input(s).",
        )

    def _batch_size(self, request: InferRequest, inputs: Sequence[Tensor]) -> int:
        batch = 0
        for tensor in inputs:
            self._slot(tensor)
            if not tensor.shape:
                raise _unfit(
                    request.id,
                    f"input '{tensor.name}' has no shape but model requires batch dimension for '{self._name}'",
                )
            if batch not in {0, tensor.shape[0]} or batch < 0:
                raise _unfit(
                    request.id, f"input '{tensor.name}' batch size does not match other inputs for '{self._name}'"
                )
            batch = tensor.shape[0]
        if batch > self._limit:
            raise _unfit(request.id, f"inference request batch-size must be <= {self._limit} for '{self._name}'")
        return batch if batch >= 0 else batch % _BATCH_SIZES

    def _slot(self, tensor: Tensor) -> _Slot:
        slot = self._slots.get(tensor.name)
        if slot is None:
            raise InferenceError(
                f"unexpected inference input '{tensor.name}' for model '{self._name}'", Code.INVALID_ARG
            )
        return slot

    def _check_tensor(self, request: InferRequest, tensor: Tensor, slot: _Slot, batch: int) -> None:
        if tensor.datatype != slot.datatype:
            raise _unfit(
                request.id,
                f"inference input '{slot.name}' data-type is '{tensor.datatype}', but model '{self._name}' expects "
                f"'{slot.datatype}'",
            )
        shape = tensor.shape[1:] if self.is_batched else tensor.shape
        if _is_open(shape, slot.dims):
            raise _unfit(
                request.id,
                f"All input dimensions should be specified for input '{slot.name}' for model '{self._name}', got "
                f"{_listed(tensor.shape)}",
            )
        if len(shape) != len(slot.dims) or any(
            declared not in {-1, size} for size, declared in zip(shape, slot.dims, strict=True)
        ):
            raise self._wrong_shape(request, tensor, slot)
        count = prod(shape) * (batch or 1)
        if slot.datatype == "BYTES":
            self._check_texts(request, tensor, count)
        elif tensor.size_bytes != count * slot.element_bytes:
            raise self._wrong_size(slot.name, count * slot.element_bytes, tensor.size_bytes, request.id)
        if min(tensor.shape, default=0) < 0 or (self.is_batched and not tensor.shape[0] and tensor.size_bytes):
            raise self._wrong_shape(request, tensor, slot)

    def _wrong_shape(self, request: InferRequest, tensor: Tensor, slot: _Slot) -> InferenceError:
        expected = (-1, *slot.dims) if self.is_batched else slot.dims
        return _unfit(
            request.id,
            f"unexpected shape for input '{slot.name}' for model '{self._name}'. Expected {_listed(expected)}, got "
            f"{_listed(tensor.shape)}. {_WITH_BATCH if self.is_batched else ''}",
        )

    def _check_texts(self, request: InferRequest, tensor: Tensor, expected: int) -> None:
        found, left, declared = _texts(tensor)
        is_cut = declared >= 0
        found += is_cut
        of_input = f"for inference input '{tensor.name}' for model '{self._name}'"
        if found > expected:
            raise _unfit(
                request.id, f"unexpected number of string elements {expected + 1} {of_input}, expecting {expected}"
            )
        if left and not is_cut:
            raise _unfit(
                request.id,
                f"incomplete string length indicator {of_input}, expecting {_LENGTH_BYTES} bytes but only {left} bytes "
                "available. Please make sure the string length indicator is in one buffer.",
            )
        if found != expected:
            raise _unfit(request.id, f"expected {expected} string elements {of_input}, got {found}")
        if is_cut:
            raise InferenceError(
                f"incomplete string data for inference input '{tensor.name}', expecting string of length {declared} "
                f"but only {left} bytes available",
                Code.INVALID_ARG,
            )

    def _check_sequence(self, request: InferRequest) -> None:
        to_model = f"inference request to model '{self._name}' must specify"
        if self.is_batched and request.inputs and request.inputs[0].shape[0] > 1:
            raise InferenceError(f"{to_model} batch-size 1 due to requirements of sequence batcher", Code.INVALID_ARG)
        if not request.sequence_id and not self._is_iterative:
            raise InferenceError(f"{to_model} a non-zero or non-empty correlation ID", Code.INVALID_ARG)

    def _wrong_size(self, name: str, expected: int, found: int, request_id: str) -> InferenceError:
        return _unfit(
            request_id,
            f"input byte size mismatch for input '{name}' for model '{self._name}'. Expected {expected}, got {found}",
        )

    def _reshape(self, tensor: Tensor, dims: tuple[int, ...], reshape: tuple[int, ...]) -> None:
        """Replace `dims` by `reshape`, whose open dimensions take the sizes that those of `dims` have, in order."""
        lead = tensor.shape[:1] if self.is_batched else ()
        own = tensor.shape[len(lead) :]
        if len(own) == len(dims):
            sizes = iter([size for size, declared in zip(own, dims, strict=True) if declared == -1])
            tensor.shape = (*lead, *(next(sizes, 1) if size == -1 else size for size in reshape))


def _slot(declared: Input) -> _Slot:
    datatype = DATATYPE_OF_TYPE.get(declared.data_type, declared.data_type)
    element_bytes = ELEMENT_BYTES.get(datatype, 0)
    is_fixed = element_bytes > 0 and -1 not in declared.dims
    item_bytes = prod(declared.dims) * element_bytes if is_fixed else -1
    return _Slot(declared.name, datatype, declared.dims, element_bytes, item_bytes, declared.optional)


def _reshapes(tensors: Sequence[Input | Output]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {tensor.name: (tensor.dims, tensor.reshape.shape) for tensor in tensors if tensor.reshape is not None}


def _is_open(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    """Whether a dimension is left open, and none before it is another than the declared one."""
    if len(shape) != len(dims):
        return False
    for size, declared in zip(shape, dims, strict=True):
        if size == -1 or declared not in {-1, size}:
            return size == -1
    return False


def _matches(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    if len(shape) != len(dims):
        return False
    return all(size >= 0 and declared in {-1, size} for size, declared in zip(shape, dims, strict=True))


def _is_whole(tensor: Tensor, slot: _Slot) -> bool:
    """Whether the data has as many elements as the shape says."""
    count = prod(tensor.shape)
    if slot.element_bytes:
        return tensor.size_bytes == count * slot.element_bytes
    return _texts(tensor) == (count, 0, -1)


def _texts(tensor: Tensor) -> tuple[int, int, int]:
    """How many elements `BYTES` data has, the bytes after them, and the length that these begin with (-1: none)."""
    data = tensor.data
    end = tensor.size_bytes
    position = count = 0
    while position + _LENGTH_BYTES <= end:
        length = int.from_bytes(data[position : position + _LENGTH_BYTES], "little")
        position += _LENGTH_BYTES
        if position + length > end:
            return count, end - position, length
        position += length
        count += 1
    return count, end - position, -1


def _has_twins(inputs: Sequence[Tensor]) -> bool:
    return len(inputs) > 1 and len({tensor.name for tensor in inputs}) < len(inputs)


def repeated(request_id: str, name: str) -> InferenceError:
    """What a request is refused with that has an input twice, whoever notices it first."""
    return _unfit(request_id, f"input '{name}' already exists in request")


def _unfit(request_id: str, what: str) -> InferenceError:
    return InferenceError(f"[request id: {request_id or '<id_unknown>'}] {what}", Code.INVALID_ARG)


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


def _listed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
