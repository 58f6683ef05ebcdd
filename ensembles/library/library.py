"""The library of one process: opened when it is first asked for, so that whoever never asks pays nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.model import Models
from ensembles.library.files import Files
from ensembles.library.jobs import Jobs
from ensembles.library.members import Members
from ensembles.library.vector_stores import VectorStores
from ensembles.step import Passage
from ensembles.stores.filters import Filter
from ensembles.stores.store import Hit


@dataclass(frozen=True, slots=True)
class Place:
    """Where a library keeps what it holds. An empty URL stands for a file, or a folder, in `data_dir`."""

    data_dir: Path
    database_url: str = ""
    vector_store_url: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How what was found is put in order. Of a way with weight 0 nothing is asked.

    `score_threshold` is against the fused score: 1 for what is best in every way, at most 0.5 for what one of two
    ways alone has found.
    """

    score_threshold: float = 0.0
    dense_weight: float = 1.0
    words_weight: float = 1.0


class Library:
    """What server processes, the ingester and steps hold. Several processes use the same place at once.

    `embedder` names the model for new vector stores; it raises `ServingError` while there is none. Every method raises
    `Unavailable` where database or store cannot be reached, `NotFound` for what is not there or another owner's.
    """

    files: Files
    vector_stores: VectorStores
    members: Members
    jobs: Jobs

    def __init__(
        self,
        place: Place,
        models: Models,
        embedder: Callable[[], str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        raise NotImplementedError

    def is_begun(self) -> bool:
        """Whether there may be anything in it: cheap, opens and makes nothing."""
        raise NotImplementedError

    async def search(
        self,
        owner: str,
        stores: Sequence[str],
        queries: Sequence[str],
        *,
        condition: Filter | None = None,
        limit: int = 10,
        ranking: Ranking | None = None,
    ) -> list[Passage]:
        """The best passages of several stores for several wordings of a question, by meaning and by words, fused.

        Cancelling it stops embedder and store. Raises `NotFound`, `InvalidRequest` for an expired store,
        `ModelNotReady` and the like of the embedder.
        """
        raise NotImplementedError

    async def dense(self, store: str, vector: bytes, limit: int, condition: Filter | None) -> list[Hit]:
        """The nearest chunks of files that are completed. Whether the caller may ask is the caller's to know."""
        raise NotImplementedError

    async def words(self, store: str, query: str, limit: int, condition: Filter | None) -> list[Hit]:
        """The chunks of completed files that match the words best."""
        raise NotImplementedError

    async def embed(self, texts: Sequence[str], embedder: str = "") -> list[bytes]:
        """A vector (little-endian float32) of each text, by one request to the embedder. Cancelling it cancels that."""
        raise NotImplementedError

    async def sweep(self) -> None:
        """Finish what was interrupted and delete what has expired. The ingester does it now and then."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close connections. Nothing may be asked after it."""
        raise NotImplementedError
