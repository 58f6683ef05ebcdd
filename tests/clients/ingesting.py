"""An ingester of lines in the place of the real one: each line of a file is a chunk, embedded by the server."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai

from ensembles.library import Library, Place
from ensembles.records.rows import ErrorCode, Job
from ensembles.stores.store import Chunk


class NoModels:
    control = None

    def openai(self, name: str):
        raise AssertionError(name)

    tensor = openai


@contextmanager
def ingesting(data_dir: Path, client: openai.OpenAI, model: str) -> Iterator[None]:
    """Ingest what is put into vector stores, from a thread of this process, until the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_run(data_dir, client, model, ended)))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def _run(data_dir: Path, client: openai.OpenAI, model: str, ended: threading.Event) -> None:
    library = Library(Place(data_dir), NoModels(), lambda: model)
    try:
        while not ended.is_set():
            job = await library.jobs.claim("lines", 60) if library.is_begun() else None
            if job is None:
                await asyncio.sleep(0.02)
            else:
                await _ingest(library, job, client, model)
    finally:
        await library.close()


async def _ingest(library: Library, job: Job, client: openai.OpenAI, model: str) -> None:
    data = library.jobs.content(job).read_bytes()
    if b"\x00" in data:
        await library.jobs.fail(job, ErrorCode.UNSUPPORTED_FILE, "It is no text.")
        return
    lines = data.decode().splitlines()
    vectors = await asyncio.to_thread(_embed, client, model, lines)
    chunks = [Chunk("", "", number, line, vector=vectors[number]) for number, line in enumerate(lines)]
    await library.jobs.complete(job, chunks, model)


def _embed(client: openai.OpenAI, model: str, lines: Sequence[str]) -> list[bytes]:
    if not lines:
        return []
    answer = client.embeddings.create(model=model, input=list(lines))
    return [array("f", item.embedding).tobytes() for item in answer.data]
