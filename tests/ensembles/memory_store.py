"""A `Store` in memory, exact and small: what the library's tests put in the place of a real one."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backends.errors import NotFound
from ensembles.stores.filters import Comparison, Filter
from ensembles.stores.store import Attributes, Chunk, Hit

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, values: value in values,
}


class MemoryStore:
    def __init__(self) -> None:
        self.collections: dict[str, dict[str, list[Chunk]]] = {}
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def create(self, collection: str, dimensions: int) -> None:  # noqa: ARG002
        self.collections.setdefault(collection, {})

    async def drop(self, collection: str) -> None:
        self.collections.pop(collection, None)

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        self._of(collection).update({file_id: list(chunks) for file_id, chunks in files.items()})

    async def remove(self, collection: str, file_id: str) -> None:
        self._of(collection).pop(file_id, None)

    async def set_attributes(self, collection: str, file_id: str, attributes: Attributes) -> None:
        files = self._of(collection)
        files[file_id] = [replace(chunk, attributes=attributes) for chunk in files.get(file_id, [])]

    async def read(self, collection: str, file_id: str) -> list[Chunk]:
        return self._of(collection).get(file_id, [])

    async def dense(self, collection: str, vector: bytes, limit: int, condition: Filter | None = None) -> list[Hit]:
        return self._best(collection, limit, condition, lambda chunk: cosine(chunk.vector, vector))

    async def words(self, collection: str, query: str, limit: int, condition: Filter | None = None) -> list[Hit]:
        words = set(query.lower().split())
        hits = self._best(collection, limit, condition, lambda chunk: len(words & set(chunk.text.lower().split())))
        return [hit for hit in hits if hit.score]

    async def size_bytes(self, collection: str) -> int:
        return sum(len(chunk.text) for chunks in self._of(collection).values() for chunk in chunks)

    async def optimise(self, collection: str) -> None:
        self._of(collection)

    async def close(self) -> None:
        pass

    def _of(self, collection: str) -> dict[str, list[Chunk]]:
        if collection not in self.collections:
            raise NotFound(f"No collection '{collection}'.")
        return self.collections[collection]

    def _best(
        self, collection: str, limit: int, condition: Filter | None, score: Callable[[Chunk], float]
    ) -> list[Hit]:
        chunks = [chunk for of_file in self._of(collection).values() for chunk in of_file]
        hits = [Hit(chunk, score(chunk)) for chunk in chunks if matches(chunk.attributes, condition)]
        return sorted(hits, key=lambda hit: -hit.score)[:limit]


def cosine(left: bytes, right: bytes) -> float:
    a, b = array("f", left), array("f", right)
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b) or 1.0)


def matches(attributes: Attributes, condition: Filter | None) -> bool:
    if condition is None:
        return True
    if not isinstance(condition, Comparison):
        joined = all if condition.type == "and" else any
        return joined(matches(attributes, each) for each in condition.filters)
    if condition.type in {"ne", "nin"}:
        positive = {"ne": "eq", "nin": "in"}[condition.type]
        return not matches(attributes, Comparison(positive, condition.key, condition.value))
    return condition.key in attributes and COMPARE[condition.type](attributes[condition.key], condition.value)
