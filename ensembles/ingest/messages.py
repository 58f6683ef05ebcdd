"""What goes between a pool and its parser processes: msgpack, each message after its length."""

from __future__ import annotations

import struct

import msgspec

from ensembles.records.rows import Chunking, ErrorCode

LENGTH = struct.Struct(">I")


class Limits(msgspec.Struct, frozen=True):
    """What one document may cost. A parser process never has more than this memory, address space included."""

    cpu_seconds: int = 120
    wall_seconds: float = 180.0
    memory_bytes: int = 1536 << 20
    answer_bytes: int = 160 << 20


class Reader(msgspec.Struct, frozen=True):
    """How an embedder reads: at most so many tokens, its own marks and its prompt before each text among them.

    `tokenizer` is the path of its tokenizer.json; without one, lengths are guessed.
    """

    tokenizer: str = ""
    max_length: int = 448
    prompt: str = ""


class Order(msgspec.Struct, frozen=True):
    """Pool → parser: read this document, and cut it for this embedder.

    `is_careful`: by a plainer way than the one that has crashed.
    """

    path: str
    filename: str
    reader: Reader
    chunking: Chunking
    cpu_seconds: int
    is_careful: bool = False


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A chunk to be. `embedded` is the text that its vector is made of: with the headings above it, where they fit."""

    text: str
    page: int | None
    heading: str
    embedded: str


class Parsed(msgspec.Struct, frozen=True, tag="parsed"):
    """Parser → pool. `is_worn`: the process has grown, and ends after this."""

    pieces: list[Piece]
    is_worn: bool = False


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Parser → pool: the document is at fault."""

    code: ErrorCode
    message: str
    is_worn: bool = False


Answer = Parsed | Refused
