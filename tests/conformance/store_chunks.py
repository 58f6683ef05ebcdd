"""Chunks that the conformance suite of stores puts, and what it says of those that it finds."""

from __future__ import annotations

import struct

from ensembles.stores.store import Chunk

DIMENSIONS = 4
SIZES = (7, 4)


def written(file_id: str, size: int) -> list[Chunk]:
    """The chunks of a file that has `size` of them; each says how many."""
    return [
        Chunk(file_id, f"{file_id}.txt", ordinal, f"piece {ordinal} of {size}", vector=vector(1, ordinal, size, 0))
        for ordinal in range(size)
    ]


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def texts(*pieces, file_id="f", **fields):
    return [
        Chunk(file_id, f"{file_id}.txt", ordinal, text, vector=vector(1, ordinal, 0, 0), **fields)
        for ordinal, text in enumerate(pieces)
    ]


def found(hits):
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    return [hit.chunk.id for hit in hits]


def assert_whole(file_id, chunks, sizes=SIZES):
    """All chunks of one writing, each once."""
    assert any([chunk.text for chunk in chunks] == [c.text for c in written(file_id, size)] for size in sizes), chunks
