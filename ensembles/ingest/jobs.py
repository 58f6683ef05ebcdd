"""The work of an ingester: files claimed for a while, parsed, embedded and put into their store, several at a time.

It may be killed at any moment: a file is done once its chunks and its record say so, and until then it is anybody's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from backends.errors import ModelNotFound, ModelNotReady, ServingError, Unavailable
from backends.model import Models
from backends.worker import text
from ensembles.ingest.embed import PRIORITY, Embedder
from ensembles.ingest.faults import DocumentError
from ensembles.ingest.index import Indexer
from ensembles.ingest.messages import Reader
from ensembles.ingest.optimise import Optimiser
from ensembles.ingest.parsers import ParserKilled, Parsers
from ensembles.library import Library
from ensembles.library.jobs import Finished
from ensembles.records.rows import ErrorCode, Job
from ensembles.stores.store import Chunk

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MOST_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Pace:
    """How much an ingester does at a time, and how often it looks around."""

    files: int = 24
    """Under way at once: enough that small ones fill the embedder's batches."""
    lease_seconds: float = 60.0
    look_seconds: float = 0.2
    """Until new files are noticed while nothing else is done."""
    check_seconds: float = 1.0
    """Until a file under way is given up that was cancelled or deleted."""
    sweep_seconds: float = 30.0
    longest_delay_seconds: float = 5.0


class Watch(Protocol):
    """Who is told what was done."""

    def took(self, stage: str, seconds: float) -> None:
        """A file was so long in a stage: `parse`, `embed`, `index`. Its wait there counts."""
        ...

    def ended(self, outcome: str, chunks: int = 0) -> None:
        """A file is `completed`, was `cancelled` or deleted, or has failed, by the code of its error."""
        ...


class Unwatched:
    """Nobody is told."""

    def took(self, stage: str, seconds: float) -> None:
        pass

    def ended(self, outcome: str, chunks: int = 0) -> None:
        pass


class Ingester:
    """Does a library's jobs. `embedder` names the model for stores without one, `worker` this process."""

    def __init__(
        self,
        library: Library,
        models: Models,
        embedder: Callable[[], str],
        parsers: Parsers,
        *,
        worker: str,
        pace: Pace | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._library = library
        self._models = models
        self._default = embedder
        self._parsers = parsers
        self._worker = worker
        self._pace = pace or Pace()
        self._watch = watch or Unwatched()
        self._embedder = Embedder(partial(library.embed, priority=PRIORITY))
        self._indexer = Indexer(lambda finished: self._patiently(lambda: library.jobs.complete(finished)))
        self._optimiser = Optimiser(library)
        self._under_way: dict[asyncio.Task[None], Job] = {}
        self._indexed: set[str] = set()
        """Keys of jobs that are being completed, which tells itself whether their claims are lost."""

    async def run(self) -> None:
        """Work until it is cancelled: what is under way is then given back, for whoever comes next.

        Nothing is opened before the library is begun.
        """
        while not self._library.is_begun():  # noqa: ASYNC110  # another process begins it
            await asyncio.sleep(self._pace.look_seconds)
        sweeping = asyncio.create_task(self._sweep())
        optimising = asyncio.create_task(self._optimiser.run())
        holding = asyncio.create_task(self._hold())
        always = (sweeping, optimising, holding)
        try:
            await self._patiently(lambda: self._library.jobs.release(self._worker))
            while True:
                await self._patiently(self._fill)
                ends = [*self._under_way, *always]
                await asyncio.wait(ends, timeout=self._pace.look_seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in always:
                    if task.done():
                        task.result()  # they end by a fault of ours alone
        finally:
            tasks = [*always, *self._under_way]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._embedder.close()
            await self._indexer.close()
            await self._parsers.close()
            await self._library.jobs.release(self._worker)

    async def _fill(self) -> None:
        """Claim files as long as there are some, and room."""
        while room := self._pace.files - len(self._under_way):
            jobs = await self._library.jobs.claim(self._worker, self._pace.lease_seconds, room)
            for job in jobs:
                task = asyncio.create_task(self._work(job))
                self._under_way[task] = job
                task.add_done_callback(self._under_way.pop)
            if len(jobs) < room:
                return

    async def _hold(self) -> None:
        """Renew the claims on what is under way; stop the work on those that are lost."""
        jobs, pace = self._library.jobs, self._pace
        renewed_at = monotonic()
        while True:
            await asyncio.sleep(pace.check_seconds)
            under_way = dict(self._under_way)
            if not under_way:
                continue
            try:
                if monotonic() - renewed_at > pace.lease_seconds / 3:
                    held = await jobs.renew(list(under_way.values()), pace.lease_seconds)
                    renewed_at = monotonic()
                else:
                    held = await jobs.held(list(under_way.values()))
            except Unavailable as error:
                _log.warning("the claims on %d files could not be renewed: %s", len(under_way), error.message)
                continue
            for task, job in under_way.items():
                if job.key not in held | self._indexed:
                    task.cancel()

    async def _work(self, job: Job) -> None:
        """Ingest a file, or say why that cannot be."""
        try:
            if job.attempt <= _MOST_ATTEMPTS:
                await self._index(job)
            else:
                await self._fail(job, ErrorCode.SERVER_ERROR, f"Given up after {_MOST_ATTEMPTS} attempts.")
        except DocumentError as error:
            await self._fail(job, error.code, error.message)
        except ParserKilled as error:
            await self._fail(job, ErrorCode.SERVER_ERROR, str(error))
        except ServingError as error:
            await self._fail(job, ErrorCode.SERVER_ERROR, error.message)
        except Exception:  # noqa: BLE001  # the top of a task
            _log.exception("%s could not be ingested", job.filename)
            await self._fail(job, ErrorCode.SERVER_ERROR, "The server failed to ingest this file.")

    async def _index(self, job: Job) -> None:
        name, reader = await self._patiently(lambda: self._reader(job))
        path = self._library.jobs.content(job)
        try:
            with self._stage("parse"):
                pieces = await self._parsers.parse(path, job.filename, reader, job.chunking)
        except FileNotFoundError as error:
            raise Unavailable("The file's content is gone.") from error
        with self._stage("embed"):
            vectors = await self._embedder.embed(name, [piece.embedded for piece in pieces])
        chunks = [
            Chunk(job.file_id, job.filename, ordinal, piece.text, piece.page, piece.heading, vector=vector)
            for ordinal, (piece, vector) in enumerate(zip(pieces, vectors, strict=True))
        ]
        self._indexed.add(job.key)
        try:
            with self._stage("index"):
                is_done = await self._indexer.index(Finished(job, chunks, name))
        finally:
            self._indexed.discard(job.key)
        if is_done:
            self._optimiser.note(job.store_id, len(chunks))
            self._watch.ended("completed", len(chunks))
        else:
            self._watch.ended("cancelled")

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began_at = monotonic()
        yield
        self._watch.took(name, monotonic() - began_at)

    async def _fail(self, job: Job, code: ErrorCode, message: str) -> None:
        is_told = await self._patiently(lambda: self._library.jobs.fail(job, code, message))
        self._watch.ended(code.value if is_told else "cancelled")

    async def _reader(self, job: Job) -> tuple[str, Reader]:
        """The model that embeds for the store, and how it reads. Raises `ModelNotReady` while it is not there."""
        name = job.embedder or self._default()
        try:
            config = self._models.openai(name).config
        except ModelNotFound as error:
            raise ModelNotReady(error.message) from error
        declared = text.read(config)
        if declared is None:
            return name, Reader()
        return name, Reader(declared.tokenizer, declared.max_length, declared.prompts.get("", ""))

    async def _patiently(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """What `work` gives, tried again as long as something is not there."""
        delay_seconds = self._pace.look_seconds
        while True:
            try:
                return await work()
            except Unavailable as error:
                _log.info("an ingester waits: %s", error.message)
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, self._pace.longest_delay_seconds)

    async def _sweep(self) -> None:
        while True:
            await self._patiently(self._library.sweep)
            await asyncio.sleep(self._pace.sweep_seconds)
