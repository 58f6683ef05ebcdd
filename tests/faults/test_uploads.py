"""What was acknowledged is there after a kill -9 of everything; a file that was not is there whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import openai

from tests.faults.looking import server_pids
from tests.processes import alive, descendants
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

UPLOADERS = 4
FLAGS = ("--workers", "2", "--max-restarts", "100")


class Uploader(threading.Thread):
    """Uploads files and puts them into a vector store, one after the other, and remembers what was acknowledged."""

    def __init__(self, number: int, server: Tritium, store: str) -> None:
        super().__init__()
        self.number = number
        self.kept: dict[str, bytes] = {}
        self.members: set[str] = set()
        self.ended = threading.Event()
        self._url = server.url
        self._store = store

    def run(self) -> None:
        with openai.OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=10) as client:
            count = 0
            while not self.ended.is_set():
                count += 1
                data = b"%d:%d " % (self.number, count) * 20_000
                with suppress(openai.APIError):
                    file = client.files.create(file=("a.txt", data), purpose="assistants")
                    self.kept[file.id] = data
                    client.vector_stores.files.create(self._store, file_id=file.id)
                    self.members.add(file.id)


def uploading(server: Tritium, store: str) -> list[Uploader]:
    uploaders = [Uploader(number, server, store) for number in range(UPLOADERS)]
    for uploader in uploaders:
        uploader.start()
    eventually(lambda: all(len(uploader.kept) >= 3 for uploader in uploaders), seconds=30, what="some uploads")
    return uploaders


def ended(uploaders: list[Uploader]) -> tuple[dict[str, bytes], set[str]]:
    for uploader in uploaders:
        uploader.ended.set()
    for uploader in uploaders:
        uploader.join()
    kept = {file_id: data for uploader in uploaders for file_id, data in uploader.kept.items()}
    return kept, {file_id for uploader in uploaders for file_id in uploader.members}


def check(server: Tritium, store: str, kept: dict[str, bytes], members: set[str]) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        there = {file.id: file for file in client.files.list()}
        assert kept.keys() <= there.keys()
        assert all(client.files.content(file_id).read() == data for file_id, data in kept.items())
        assert all(len(client.files.content(file.id).read()) == file.bytes for file in there.values())
        files = list(client.vector_stores.files.list(store, limit=100))
        assert members <= {file.id for file in files}
        assert client.vector_stores.retrieve(store).file_counts.total == len(files)


def test_killing_everything_loses_no_acknowledged_file(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "models", {"echo": {}})
    flags = (*FLAGS, "--data-dir", str(tmp_path / "data"))
    kept: dict[str, bytes] = {}
    members: set[str] = set()
    store = ""
    for _ in range(3):
        with serving(repository, *flags) as server:
            if not store:
                with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
                    store = client.vector_stores.create().id
            uploaders = uploading(server, store)
            below = descendants(server.pid)
            server.process.kill()
            server.process.wait()
            eventually(lambda below=below: not any(map(alive, below)), what="the end of its children")
            more, more_members = ended(uploaders)
            kept |= more
            members |= more_members
    with serving(repository, *flags) as server:
        check(server, store, kept, members)
    assert len(kept) >= 3 * UPLOADERS * 3


def test_killing_server_processes_loses_no_acknowledged_file(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "models", {"echo": {}})
    with serving(repository, *FLAGS, "--data-dir", str(tmp_path / "data")) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            store = client.vector_stores.create().id
        uploaders = uploading(server, store)
        for _ in range(4):
            before = sum(len(uploader.kept) for uploader in uploaders)
            (pid, *_) = eventually(lambda: server_pids(server), seconds=20)
            os.kill(pid, signal.SIGKILL)
            eventually(
                lambda before=before: sum(len(uploader.kept) for uploader in uploaders) > before + 5,
                seconds=30,
                what="more uploads",
            )
        kept, members = ended(uploaders)
        eventually(lambda: len(server_pids(server)) == 2, seconds=20)
        check(server, store, kept, members)
