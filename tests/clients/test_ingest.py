"""`tritium ingest`, and the ingester's process behind it, at a server whose embedder is an echo engine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import httpx
import openai
import pytest
from rich.console import Console

from backends.errors import InvalidRequest
from gateway.client import Server, ServerError
from gateway.documents import ingest
from tests.ensembles.ingest import documents
from tests.faults.looking import count
from tests.processes import alive, command_line, descendants
from tests.servers import TRITIUM, Tritium, echo_repository, serving
from tests.waiting import eventually

Ingest = Callable[..., tuple[bool, str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    with serving(echo_repository(tmp_path_factory.mktemp("models"), {"echo": {}})) as server:
        yield server


@pytest.fixture
def client(server: Tritium) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of documents that can be read."""
    for name, data in {
        "turbine.pdf": documents.pdf(("Rotor", documents.TURBINE)),
        "notes/ships.md": b"# Ships\n\nA ship is a boat.",
        "notes/.draft.md": b"hidden",
        ".git/config": b"hidden",
    }.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "docs"


@pytest.fixture
def ingested(server: Tritium, request: pytest.FixtureRequest) -> Ingest:
    """Ingest paths into a store of the test's own: whether a file failed, and what is printed."""

    def run(*paths: Path, store: str = request.node.name) -> tuple[bool, str]:
        output = StringIO()
        outcome = ingest(Server(server.url), paths, store, Console(file=output))
        return bool(outcome.failed), f"{output.getvalue()}{outcome.summary()}\n"

    return run


def ingesters(server: Tritium) -> list[int]:
    return [pid for pid in descendants(server.pid) if "gateway.ingester" in command_line(pid)]


def test_no_ingester_runs_before_there_is_a_file(tmp_path):
    with serving(echo_repository(tmp_path / "models", {"echo": {}})) as server:
        assert ingesters(server) == []
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            client.files.create(file=("a.txt", b"words"), purpose="assistants")
        (pid,) = eventually(lambda: ingesters(server))
    assert not alive(pid)


def test_a_folder_is_ingested_with_what_is_below_it(ingested, folder, client):
    failed, output = ingested(folder)
    assert (failed, output.partition(": ")[2]) == (False, "2 ingested, 0 of them anew, 0 unchanged, 0 failed.\n")
    store_id = output.partition(":")[0]
    names = {file.attributes["path"] for file in client.vector_stores.files.list(store_id)}
    assert names == {"turbine.pdf", "notes/ships.md"}
    (found, *_) = client.vector_stores.search(store_id, query="ship").data
    assert found.filename == "ships.md"


def test_what_is_ingested_is_counted(server, ingested, folder):
    done, failed, chunks = (
        count(server, name, **labels)
        for name, labels in (
            ("ingested_files_total", {"outcome": "completed"}),
            ("ingested_files_total", {"outcome": "invalid_file"}),
            ("ingested_chunks_total", {}),
        )
    )
    (folder / "empty.txt").touch()
    ingested(folder)
    eventually(lambda: count(server, "ingested_files_total", outcome="completed") == done + 2, what="they are counted")
    assert count(server, "ingested_files_total", outcome="invalid_file") == failed + 1
    assert count(server, "ingested_chunks_total") >= chunks + 2
    assert count(server, "ingestion_seconds_count", stage="index") >= 2
    eventually(lambda: count(server, "ingestion_queue_length") == 0, what="nothing waits")


def test_what_is_there_stays_and_what_has_changed_is_replaced(ingested, folder, client):
    _, before = ingested(folder)
    (folder / "notes" / "ships.md").write_text("# Ships\n\nThey sail.")
    assert ingested(folder) == (
        False,
        before.partition(":")[0] + ": 1 ingested, 1 of them anew, 1 unchanged, 0 failed.\n",
    )
    store_id = before.partition(":")[0]
    assert client.vector_stores.retrieve(store_id).file_counts.total == 2
    texts = [part.text for hit in client.vector_stores.search(store_id, query="ships").data for part in hit.content]
    assert any("They sail." in text for text in texts)
    assert not any("is a boat" in text for text in texts)


def test_a_store_is_found_by_its_id_too(ingested, folder):
    _, first = ingested(folder)
    store_id = first.partition(":")[0]
    assert ingested(folder, store=store_id)[1].startswith(f"{store_id}: 0 ingested")


def test_documents_that_cannot_be_read_are_named_with_their_reasons(ingested, folder, client):
    bad = {
        "bomb.docx": (documents.packed(["[Content_Types].xml", "word/document.xml"], 200 << 20), "unpacks to 400 MB"),
        "cut.pdf": (documents.pdf(("Rotor", documents.TURBINE * 50))[:1000], "is cut off"),
        "locked.pdf": (documents.locked_pdf(), "password"),
        "empty.txt": (b"", "empty"),
        "program.bin": (b"\x7fELF\x00\x01\x02", "are not read"),
        "words.pdf": (b"plain words", "its content is a text file"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    failed, output = ingested(folder)
    assert failed
    for name, (_, reason) in bad.items():
        assert re.search(f"^{name}: .*{reason}", output, re.MULTILINE), output
    store_id = output.splitlines()[-1].partition(":")[0]
    assert client.vector_stores.retrieve(store_id).file_counts.completed == 2


def test_a_path_that_is_not_there_is_refused_before_anything_is_sent(ingested, folder):
    with pytest.raises(InvalidRequest, match="neither a file nor a folder"):
        ingested(folder, folder / "none")


def test_a_server_that_refuses_stops_it(folder):
    with pytest.raises(ServerError, match="no server answers"):
        ingest(Server("http://127.0.0.1:1"), [folder], "docs", Console(file=StringIO()))


def test_the_command_exits_with_one_where_a_file_failed(server, tmp_path):
    (tmp_path / "empty.txt").touch()
    argv = (TRITIUM, "ingest", str(tmp_path / "empty.txt"), "--store", "command", "--url", server.url)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "empty.txt: The file is empty." in done.stderr
    assert "0 ingested" in done.stdout


def test_an_ingester_that_is_killed_is_replaced_and_its_files_completed(server, ingested, folder):
    ingested(folder)
    (pid,) = ingesters(server)
    os.kill(pid, signal.SIGKILL)
    (folder / "more.txt").write_text("More words.")
    failed, output = ingested(folder)
    assert (failed, "1 ingested" in output) == (False, True)
    assert ingesters(server) != [pid]


def test_half_a_gigabyte_of_spaces_takes_no_memory(server, client):
    boundary = "b"
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="spaces.txt"\r\n\r\n'
    ).encode()

    def body():
        yield head
        for _ in range(511):  # as much as a server takes
            yield b" " * (1 << 20)
        yield f"\r\n--{boundary}--\r\n".encode()

    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    file_id = httpx.post(f"{server.url}/v1/files", content=body(), headers=headers, timeout=60).json()["id"]
    store = client.vector_stores.create(name="spaces", file_ids=[file_id])
    eventually(lambda: client.vector_stores.retrieve(store.id).file_counts.failed, seconds=60)
    (file,) = client.vector_stores.files.list(store.id)
    assert file.last_error is not None
    assert file.last_error.message == "The document has no text."
    for pid in descendants(server.pid):
        if "ensembles.ingest.parser" in command_line(pid):
            peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            assert peak is not None
            assert int(peak[1]) < 200 << 10
