"""Writes the weights that `tritium models pull` fetched as Q8_0: llama.cpp multiplies it by fast code, Q4_1 by slow.

The layout is that of ggml's docs/gguf.md, the blocks are those of its ggml-common.h. Metadata, the licence among them,
and tensors of other types pass as they are.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "1"
SOURCE = FOLDER / "SmolLM2-135M-Instruct.Q4_1.gguf"
TARGET = FOLDER / "SmolLM2-135M-Instruct.Q8_0.gguf"

MAGIC = struct.pack("<4sI", b"GGUF", 3)
# What `general.file_type` calls a file whose matrices are Q8_0.
MOSTLY_Q8_0 = 7
# Of tensors in the file, where no `general.alignment` says another.
ALIGNMENT_BYTES = 32

# Types of metadata: all but strings and arrays are as many bytes.
STRING, ARRAY = 8, 9
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

# Types of tensors, and what a block of each is. 4 bits of the first 16 weights of Q4_1 lie beside those of the others.
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK_WEIGHTS = {F32: 1, Q4_1: 32, Q8_0: 32}
BLOCK = {
    F32: np.dtype("<f4"),
    Q4_1: np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("quants", "u1", 16)]),
    Q8_0: np.dtype([("scale", "<f2"), ("quants", "i1", 32)]),
}


def main() -> None:
    partial = TARGET.with_name(f".{TARGET.name}.part")
    try:
        with partial.open("wb") as file:
            file.writelines(requantized(SOURCE.read_bytes()))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(TARGET)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A line of the table of tensors; `offset` counts from where the first one lies."""

    name: bytes
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def blocks(self) -> int:
        return math.prod(self.shape) // BLOCK_WEIGHTS[self.kind]

    def line(self, kind: int, offset: int) -> bytes:
        dimensions = struct.pack(f"<I{len(self.shape)}Q", len(self.shape), *self.shape)
        return struct.pack("<Q", len(self.name)) + self.name + dimensions + struct.pack("<IQ", kind, offset)


class Reader:
    """Reads a GGUF file from its beginning to its tensors."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def numbers(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def text(self) -> bytes:
        (length,) = self.numbers("Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, kind: int) -> None:
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            element, count = self.numbers("IQ")
            for _ in range(count):
                self.skip(element)
        else:
            self.at += VALUE_BYTES[kind]

    def metadata(self, count: int) -> Mapping[bytes, int]:
        """Where the value of each key stands."""
        places = {}
        for _ in range(count):
            key = self.text()
            (kind,) = self.numbers("I")
            places[key] = self.at
            self.skip(kind)
        return places

    def tensor(self) -> Tensor:
        name = self.text()
        (dimensions,) = self.numbers("I")
        tensor = Tensor(name, self.numbers(f"{dimensions}Q"), *self.numbers("IQ"))
        if tensor.kind not in BLOCK:
            sys.exit(f"{SOURCE.name}: {name.decode()} is of type {tensor.kind}; F32, Q4_1 and Q8_0 are known")
        return tensor


def requantized(data: bytes) -> Iterable[bytes]:
    """The parts of the new file, one after another, from the bytes of the old one."""
    if not data.startswith(MAGIC):
        sys.exit(f"{SOURCE.name} is no GGUF file of version 3")
    reader = Reader(data)
    reader.at = len(MAGIC)
    tensor_count, key_count = reader.numbers("QQ")
    file_type = reader.metadata(key_count)[b"general.file_type"]
    head = bytearray(data[: reader.at])
    struct.pack_into("<I", head, file_type, MOSTLY_Q8_0)
    tensors = [reader.tensor() for _ in range(tensor_count)]
    first = reader.at + padding(reader.at)
    offset = 0
    for tensor in tensors:
        kind = Q8_0 if tensor.kind == Q4_1 else tensor.kind
        head += tensor.line(kind, offset)
        size = tensor.blocks * BLOCK[kind].itemsize
        offset += size + padding(size)
    yield bytes(head) + bytes(padding(len(head)))
    for tensor in tensors:
        blocks = np.frombuffer(data, BLOCK[tensor.kind], tensor.blocks, first + tensor.offset)
        made = (q8_0(blocks) if tensor.kind == Q4_1 else blocks).tobytes()
        yield made + bytes(padding(len(made)))


def padding(size: int) -> int:
    return -size % ALIGNMENT_BYTES


def q8_0(blocks: NDArray[Any]) -> NDArray[Any]:
    """Blocks of Q8_0 from those of Q4_1: 127 is the largest weight of a block, each goes to the nearest step."""
    quants = np.concatenate([blocks["quants"] & 15, blocks["quants"] >> 4], axis=1)
    weights = blocks["scale"].astype(np.float32)[:, None] * quants + blocks["minimum"].astype(np.float32)[:, None]
    scale = np.abs(weights).max(axis=1, keepdims=True) / 127
    made = np.zeros(len(blocks), BLOCK[Q8_0])
    made["scale"] = scale[:, 0]
    made["quants"] = np.rint(np.divide(weights, scale, out=np.zeros_like(weights), where=scale > 0))
    return made


if __name__ == "__main__":
    main()
