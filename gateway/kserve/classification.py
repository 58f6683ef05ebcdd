"""Triton's classification extension: the best of an output's elements, as texts of score, index and label."""

from __future__ import annotations

import heapq

from backends.config import ModelConfig, beside
from backends.errors import Code, InferenceError
from backends.tensors import Tensor
from gateway.kserve.elements import numbers

_UNRANKED = frozenset({"BOOL", "BYTES", "FP16", "BF16"})
_REALS = frozenset({"FP32", "FP64"})


class Labels:
    """The labels of a model's outputs (`label_filename`), by output."""

    def __init__(self, by_output: dict[str, list[str]]) -> None:
        self._by_output = by_output

    @classmethod
    def read(cls, config: ModelConfig) -> Labels:
        """Of the files in the model's folder, one label a line; those that are not there are left out."""
        files = {
            output.name: beside(config, output.label_filename) for output in config.output if output.label_filename
        }
        return cls(
            {name: file.read_text(errors="replace").splitlines() for name, file in files.items() if file.is_file()}
        )

    def of(self, output: str) -> list[str]:
        return self._by_output.get(output, [])


def classify(tensor: Tensor, classes: int, labels: list[str], *, is_batched: bool) -> Tensor:
    """The best `classes` elements of each batch member, as `BYTES`: `score:index`, and `:label` where there is one.

    Raises `InferenceError` for datatypes without an order.
    """
    if tensor.datatype in _UNRANKED:
        raise InferenceError(
            f"class result not available for output due to unsupported type '{tensor.datatype}'", Code.INVALID_ARG
        )
    values = numbers(tensor)
    members = tensor.shape[0] if is_batched and tensor.shape else 1
    size = len(values) // members if members else 0
    count = min(classes, size)
    texts: list[bytes] = []
    for start in range(0, size * members, size or 1):
        member = values[start : start + size]
        for index in heapq.nlargest(count, range(size), key=member.__getitem__):
            score = f"{member[index]:f}" if tensor.datatype in _REALS else str(member[index])
            label = f":{labels[index]}" if index < len(labels) else ""
            texts.append(f"{score}:{index}{label}".encode())
    data = b"".join([len(text).to_bytes(4, "little") + text for text in texts])
    return Tensor(tensor.name, "BYTES", (members, count) if is_batched else (count,), data)
