"""A library on a disk of its own with a store in memory, and models that embed by the words of a small vocabulary."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from backends.config import ModelConfig
from backends.model import OpenAIRequest, OpenAIResponse
from ensembles.library import Library, Place
from ensembles.library.jobs import Finished
from ensembles.records.rows import Addition, File, Job, VectorStore
from ensembles.stores.store import Attributes, Chunk
from tests.ensembles.memory_store import MemoryStore

VOCABULARY = ("apple", "pear", "plum", "boat", "ship")
EMBEDDER = "fruit"


def vector(text: str) -> bytes:
    words = text.lower().split()
    return array("f", [float(words.count(word)) for word in VOCABULARY]).tobytes()


class Answer:
    """A response's body of one piece; `closed` tells whether its holder has closed it."""

    def __init__(self, body: bytes) -> None:
        self._pieces = [body]
        self.closed = False

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Embedder:
    """Answers as `/v1/embeddings` does; `body` and `status` say something else, `hangs` says nothing for ever."""

    status: int = 200
    body: bytes | None = None
    hangs: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    was_cancelled: bool = False
    config: ModelConfig = field(default_factory=lambda: ModelConfig(EMBEDDER, backend="toy"))

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        fields = msgspec.json.decode(request.body)
        self.asked.append(fields)
        self.priorities.append(request.priority)
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
        data = [
            {"index": index, "embedding": base64.b64encode(vector(text)).decode()}
            for index, text in enumerate(fields["input"])
        ]
        body = msgspec.json.encode({"data": data[::-1]}) if self.body is None else self.body
        self.answers.append(Answer(body))
        return OpenAIResponse(self.status, [], self.answers[-1])


class Embedders:
    """`Models` with one embedder."""

    control = None

    def __init__(self) -> None:
        self.embedder = Embedder()

    def openai(self, name: str) -> Embedder:
        assert name == EMBEDDER
        return self.embedder


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shelf:
    """A library with all that a test needs to look at it."""

    folder: Path
    store: MemoryStore
    models: Embedders
    clock: Clock
    library: Library
    database_url: str = ""

    def another(self) -> Library:
        """The library as another process has it open."""
        return opened(self.folder, self.store, self.models, self.clock, self.database_url)

    async def file(self, text: str = "an apple", *, owner: str = "", filename: str = "a.txt") -> File:
        return await self.library.files.create(owner, filename, "assistants", pieces(text.encode()))

    async def holding(self, *texts: str, owner: str = "", **options: Any) -> tuple[VectorStore, list[File]]:
        """A vector store with files of these texts, ingested."""
        files = [await self.file(text, owner=owner) for text in texts]
        additions = [Addition(file.id) for file in files]
        store = await self.library.vector_stores.create(owner, files=additions, **options)
        await self.ingest()
        return store, files

    async def add(self, store: VectorStore, text: str, attributes: Attributes | None = None) -> File:
        """Another file in a vector store, ingested."""
        file = await self.file(text, owner=store.owner)
        await self.library.members.add(store.owner, store.id, Addition(file.id, attributes or {}))
        await self.ingest()
        return file

    async def claim(self, worker: str = "tests", lease_seconds: float = 60) -> Job | None:
        """The file that has waited longest, None where none waits."""
        return next(iter(await self.library.jobs.claim(worker, lease_seconds, 1)), None)

    async def ingest(self) -> None:
        while (job := await self.claim()) is not None:
            assert await self.complete(job)

    async def complete(self, job: Job, library: Library | None = None, *, embedder: str = "") -> bool:
        """Put the file into its store, by this library or another; whether its claim was not lost."""
        (is_done,) = await (library or self.library).jobs.complete([Finished(job, self.chunks(job), embedder)])
        return is_done

    def chunks(self, job: Job) -> list[Chunk]:
        """One a line."""
        lines = self.library.jobs.content(job).read_text().splitlines()
        return [Chunk("", "", number, line, vector=vector(line)) for number, line in enumerate(lines)]


def opened(folder: Path, store: MemoryStore, models: Embedders, clock: Clock, database_url: str = "") -> Library:
    place = Place(folder, database_url=database_url)
    return Library(place, models, lambda: EMBEDDER, clock=clock, open_store=lambda _url: store)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
