"""What a vector store offers: chunks in, the nearest ones out, by meaning and by words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ensembles.stores.filters import Filter

Scalar = str | float | bool
Attributes = dict[str, Scalar]


@dataclass(slots=True)
class Chunk:
    """A piece of a file. `ordinal` counts from 0 within the file; `page` from 1, None where the file has no pages.

    `heading` is the path of headings above it, joined by " > ". `vector` is little-endian float32: what a search has
    found brings it, what `read` gives does not.
    """

    file_id: str
    filename: str
    ordinal: int
    text: str
    page: int | None = None
    heading: str = ""
    attributes: Attributes = field(default_factory=dict)
    vector: bytes = b""

    @property
    def id(self) -> str:
        return f"{self.file_id}:{self.ordinal}"


@dataclass(slots=True)
class Hit:
    """A chunk that was found. `score` is higher for a better one: a cosine from `dense`, BM25's from `words`."""

    chunk: Chunk
    score: float


class Store(Protocol):
    """One place that holds any number of collections, a vector store of the API each. Any number of processes use it.

    Every method raises `Unavailable` where the place cannot be reached, `NotFound` for a collection that is not there
    (all but `open`, `create` and `drop`). Cancelling one leaves the collection as it was or as it was to become.
    """

    async def open(self) -> None:
        """Load and connect what the first call would otherwise wait for, seconds at times."""
        ...

    async def create(self, collection: str, dimensions: int) -> None:
        """Make an empty collection; nothing happens where it is there."""
        ...

    async def drop(self, collection: str) -> None:
        """Delete a collection with all that it holds; nothing happens where there is none."""
        ...

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        """Replace all chunks of each file, by its id, at once: nobody ever sees a part of a file's.

        Several files cost little more than one.
        """
        ...

    async def remove(self, collection: str, file_id: str) -> None:
        """Delete the chunks of a file, for good."""
        ...

    async def set_attributes(self, collection: str, file_id: str, attributes: Attributes) -> None:
        """Replace the attributes of a file's chunks."""
        ...

    async def read(self, collection: str, file_id: str) -> list[Chunk]:
        """A file's chunks in their order."""
        ...

    async def dense(self, collection: str, vector: bytes, limit: int, condition: Filter | None = None) -> list[Hit]:
        """The chunks whose vectors are nearest by cosine, best first."""
        ...

    async def words(self, collection: str, query: str, limit: int, condition: Filter | None = None) -> list[Hit]:
        """The chunks that match the words of the query best, by BM25, best first."""
        ...

    async def size_bytes(self, collection: str) -> int:
        """What the collection takes, about."""
        ...

    async def optimise(self, collection: str) -> None:
        """Make searches fast after many changes. One process at a time does it; searches go on meanwhile."""
        ...

    async def close(self) -> None: ...
