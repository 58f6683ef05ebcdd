"""Files on their way into a vector store while processes are killed: none is lost, none is there by half or twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from backends.weights import missing
from tests.processes import command_line, descendants
from tests.servers import ROOT, Tritium, serving, unavailable

EMBEDDER = "all-minilm-l6-v2"
FILES = 500
KILLS = 10
KILLED = {
    "the ingester": "gateway.ingester",
    "a parser": "ensembles.ingest.parser",
    "an instance": "backends.worker.instance",
    "a worker": "backends.worker.host",
    "a server process": "gateway.server",
    "the supervisor": "",
}


class Gateway:
    """`tritium serve` that is started again on the same data when its supervisor is killed."""

    def __init__(self, folder: Path) -> None:
        (folder / "models").mkdir()
        (folder / "models" / EMBEDDER).symlink_to(ROOT / "model_repository" / EMBEDDER)
        self._folder = folder
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        flags = ("--data-dir", str(self._folder / "data"), "--workers", "2")
        self.server: Tritium = self._stack.enter_context(serving(self._folder / "models", *flags))

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0, timeout=30)

    def kill(self, what: str) -> bool:
        """Kill a process of this kind; whether there was one."""
        if what == "the supervisor":
            os.kill(self.server.pid, signal.SIGKILL)
            self.server.process.wait()
            return True
        pids = [pid for pid in descendants(self.server.pid) if KILLED[what] in command_line(pid)]
        for pid in random.sample(pids, min(1, len(pids))):
            os.kill(pid, signal.SIGKILL)
        return bool(pids)

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    if missing(ROOT / "model_repository" / EMBEDDER):
        unavailable(f"{EMBEDDER} is not fetched: run `tritium models pull {EMBEDDER}`")
    gateway = Gateway(tmp_path)
    try:
        yield gateway
    finally:
        gateway.stop()


def text(number: int) -> str:
    return f"Note {number}: the ship of harbour {number % 17} carries cargo {number * 31 % 1009} to the north."


async def acknowledged(client: AsyncOpenAI, store_id: str, number: int) -> str:
    """The id of a file once the server has said that it will be ingested; asked for again until then."""
    while True:
        try:
            file = await client.files.create(file=(f"{number}.txt", text(number).encode()), purpose="assistants")
            await client.vector_stores.files.create(store_id, file_id=file.id)
        except (APIConnectionError, APIStatusError):
            await asyncio.sleep(0.1)
        else:
            return file.id


@pytest.mark.timeout(240)
async def test_every_acknowledged_file_is_completed_once_though_any_process_is_killed(gateway):
    async with gateway.client() as client:
        store = await client.vector_stores.create(name="notes")
        numbers = iter(range(FILES))
        files: dict[str, int] = {}

        async def upload() -> None:
            for number in numbers:
                files[await acknowledged(client, store.id, number)] = number

        uploading = asyncio.gather(*(upload() for _ in range(4)))
        kills: Counter[str] = Counter()
        kinds = [kind for kind in KILLED if kind != "the supervisor"]
        while sum(kills.values()) < KILLS - 1:
            await asyncio.sleep(0.5)
            assert not uploading.done() or len(files) == FILES, uploading
            kind = kinds[sum(kills.values()) % len(kinds)]
            kills[kind] += gateway.kill(kind)
        await uploading
        gateway.kill("the supervisor")
    gateway.start()
    began_at = monotonic()
    async with gateway.client() as client:
        while (counts := (await client.vector_stores.retrieve(store.id)).file_counts).in_progress:
            assert monotonic() - began_at < 90, counts
            await asyncio.sleep(0.2)
        print(f"{kills}, then {monotonic() - began_at:.1f} s after the last: {counts}")
        members = [file async for file in client.vector_stores.files.list(store.id, limit=100)]
        print([file.last_error for file in members if file.last_error])
        statuses = {file.id: file.status for file in members}
        assert {file_id: statuses.get(file_id) for file_id in files} == dict.fromkeys(files, "completed")
        for file_id, number in random.Random(1).sample(sorted(files.items()), 40):
            content = await client.vector_stores.files.content(file_id, vector_store_id=store.id)
            assert [part.text for part in content.data] == [text(number)]
        found = await client.vector_stores.search(store.id, query="the ship of a harbour", max_num_results=50)
        assert len({hit.file_id for hit in found.data}) == 50
