"""Where a library is, and how it is opened: database, blobs and store, when the first of them is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import InvalidRequest
from ensembles.blobs import Blobs
from ensembles.stores.store import Store

if TYPE_CHECKING:
    from ensembles.records.database import Database

Clock = Callable[[], float]
OpenStore = Callable[[str], Store]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a library keeps what it holds. An empty URL stands for a file, or a folder, in `data_dir`."""

    data_dir: Path
    database_url: str = ""
    vector_store_url: str = ""

    def is_begun(self) -> bool:
        """Whether there may be anything: cheap, opens and makes nothing."""
        return bool(self.database_url) or self.database_file.exists()

    @property
    def database_file(self) -> Path:
        return self.data_dir.absolute() / "records.db"


@dataclass(frozen=True, slots=True)
class Shelves:
    """What a library consists of, opened."""

    database: Database
    blobs: Blobs
    store: Store


class Opening:
    """Opens a place once, for all who wait for it. `blobs` needs no opening."""

    def __init__(self, place: Place, clock: Clock, open_store: OpenStore) -> None:
        self.place = place
        self.clock = clock
        self._open_store = open_store
        self.blobs = Blobs(place.data_dir.absolute() / "files")
        self._lock = asyncio.Lock()
        self._shelves: Shelves | None = None

    async def shelves(self) -> Shelves:
        """Raises `Unavailable` and `InvalidRequest`; the next call tries again."""
        if self._shelves is None:
            async with self._lock:
                if self._shelves is None:
                    self._shelves = await self._open()
        return self._shelves

    def now(self) -> int:
        return int(self.clock())

    async def close(self) -> None:
        async with self._lock:
            shelves, self._shelves = self._shelves, None
            if shelves is not None:
                await shelves.store.close()
                await shelves.database.close()

    async def _open(self) -> Shelves:
        database_type = await asyncio.to_thread(_database_type)
        place = self.place
        database = await database_type.open(place.database_url or f"sqlite:///{place.database_file}")
        try:
            store = self._open_store(place.vector_store_url or str(place.data_dir.absolute() / "vectors"))
        except ValueError as error:
            await database.close()
            raise InvalidRequest(str(error)) from error
        except BaseException:
            await database.close()
            raise
        return Shelves(database, self.blobs, store)


def _database_type() -> type[Database]:
    from ensembles.records.database import Database  # SQLAlchemy takes a third of a second

    return Database
