"""What a batch as a whole has for its model: inputs made of the shapes of its members, outputs told apart by them.

Triton's ragged batching: inputs with `allow_ragged_batch` stand end to end without padding, and `batch_input` tells the
model where each member begins. An instance asks here when it puts a batch together.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from backends.config import BatchInput, BatchOutput
from backends.errors import Code, InferenceError
from backends.tensors import DATATYPE_OF_TYPE, ELEMENT_BYTES, Tensor, element_count

Shape = tuple[int, ...]

_FORMATS = {"INT32": "i", "FP32": "f"}


def batch_inputs(wanted: Sequence[BatchInput], members: Sequence[Mapping[str, Shape]]) -> list[Tensor]:
    """The inputs that `batch_input` describes, for members with inputs of these shapes (batch dimension included).

    Raises `InferenceError` where a member lacks the input that one is made of, or for a kind or type that is not known.
    """
    made: list[Tensor] = []
    for batch_input in wanted:
        make = _KINDS.get(batch_input.kind)
        datatype = DATATYPE_OF_TYPE.get(batch_input.data_type, "")
        if make is None or not batch_input.source_input:
            raise InferenceError(f"unexpected batch input {batch_input.kind}", Code.INVALID_ARG)
        shape, values = make(_shapes(batch_input.source_input[0], members))
        if values is None:
            data = bytes(ELEMENT_BYTES.get(datatype, 0) * element_count(shape))
        elif datatype in _FORMATS:
            data = struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
        else:
            raise InferenceError(f"unexpected type {batch_input.data_type} of a batch input", Code.INVALID_ARG)
        made.extend(Tensor(name, datatype, shape, data) for name in batch_input.target_name)
    return made


def parts(batch_output: BatchOutput, members: Sequence[Mapping[str, Shape]]) -> list[tuple[int, int, Shape]]:
    """Where each member's elements begin and end in the outputs that `batch_output` describes, and their shape.

    That is the shape of the member's own input (`BATCH_SCATTER_WITH_INPUT_SHAPE`). Raises `InferenceError`.
    """
    shapes = _shapes(batch_output.source_input[0], members)
    ends = list(accumulate(element_count(shape) for shape in shapes))
    return list(zip([0, *ends[:-1]], ends, shapes, strict=True))


def _shapes(source: str, members: Sequence[Mapping[str, Shape]]) -> list[Shape]:
    try:
        return [shapes[source] for shapes in members]
    except KeyError as error:
        raise InferenceError(f"input '{source}' is wanted for each request of a batch", Code.INVALID_ARG) from error


_Made = tuple[Shape, list[int] | None]


def _element_count(shapes: list[Shape]) -> _Made:
    return (len(shapes),), [element_count(shape) for shape in shapes]


def _accumulated(shapes: list[Shape]) -> _Made:
    return (len(shapes),), list(accumulate(element_count(shape) for shape in shapes))


def _accumulated_with_zero(shapes: list[Shape]) -> _Made:
    return (len(shapes) + 1,), list(accumulate((element_count(shape) for shape in shapes), initial=0))


def _max_as_shape(shapes: list[Shape]) -> _Made:
    # Only its shape says something: the model reads no element of it.
    return (max(element_count(shape) for shape in shapes),), None


def _item_shape(shapes: list[Shape]) -> _Made:
    rows = sum(shape[0] for shape in shapes)
    return (rows, len(shapes[0]) - 1), [size for shape in shapes for size in shape[1:] * shape[0]]


def _item_shape_flattened(shapes: list[Shape]) -> _Made:
    (rows, rank), values = _item_shape(shapes)
    return (rows * rank,), values


_KINDS: dict[str, Callable[[list[Shape]], _Made]] = {
    "BATCH_ELEMENT_COUNT": _element_count,
    "BATCH_ACCUMULATED_ELEMENT_COUNT": _accumulated,
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": _accumulated_with_zero,
    "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE": _max_as_shape,
    "BATCH_ITEM_SHAPE": _item_shape,
    "BATCH_ITEM_SHAPE_FLATTEN": _item_shape_flattened,
}
