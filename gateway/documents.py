"""`tritium ingest`: files and folders put into a vector store of a running server, and seen to their end there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from backends.errors import InvalidRequest
from gateway.client import Server, ServerError

_LOOK_SECONDS = 0.25
_PAGE = 100
_PATH = "path"
_DIGEST = "sha256"
_ATTRIBUTE_CHARACTERS = 512


@dataclass(slots=True)
class Outcome:
    """What became of the files. `failed` has the reasons by the names that files have in the store."""

    store_id: str
    added: int = 0
    unchanged: int = 0
    replaced: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        return (
            f"{self.store_id}: {self.added} ingested, {self.replaced} of them anew, {self.unchanged} unchanged, "
            f"{len(self.failed)} failed."
        )


@dataclass(frozen=True, slots=True)
class _Document:
    path: Path
    name: str


def ingest(server: Server, paths: Sequence[Path], store: str, output: Console) -> Outcome:
    """Put files, and those of folders, into the store of this name or id, which is made where there is none.

    A file whose name and content are there already stays; one that has changed replaces what was there. Errors of files
    are printed. Raises `InvalidRequest` for a path that is not there, `ServerError`.
    """
    documents = list(_documents(paths))
    store_id = _store(server, store)
    there = _there(server, store_id)
    outcome = Outcome(store_id)
    with _progress(output) as progress:
        uploading = progress.add_task("upload", total=len(documents))
        ingesting = progress.add_task("ingest", total=len(documents))
        waiting: dict[str, _Document] = {}
        for document in documents:
            _send(server, store_id, document, there.get(document.name), waiting, outcome)
            progress.advance(uploading)
            progress.update(ingesting, completed=progress.tasks[uploading].completed - len(waiting))
        while waiting:
            _settle(server, store_id, waiting, outcome)
            progress.update(ingesting, completed=len(documents) - len(waiting))
            if waiting:
                time.sleep(_LOOK_SECONDS)
    for name, message in outcome.failed.items():
        output.print(f"{name}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return outcome


def _documents(paths: Iterable[Path]) -> Iterator[_Document]:
    """Files by the names that they have in the store; what is hidden in a folder is left out."""
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                inside = file.relative_to(path)
                if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                    yield _Document(file, inside.as_posix()[-_ATTRIBUTE_CHARACTERS:])
        elif path.is_file():
            yield _Document(path, path.name)
        else:
            raise InvalidRequest(f"{path} is neither a file nor a folder.")


def _store(server: Server, name: str) -> str:
    """The newest store of a name, or the one of an id; a new one of the name where there is neither."""
    for store in _pages(server, "/v1/vector_stores"):
        if name in {store["id"], store["name"]} and store["status"] != "expired":
            return str(store["id"])
    return str(server.post("/v1/vector_stores", _json({"name": name}))["id"])


def _there(server: Server, store_id: str) -> dict[str, dict[str, Any]]:
    """The store's files that came this way, by their names."""
    files = _pages(server, f"/v1/vector_stores/{store_id}/files", "order=asc&")
    return {file["attributes"][_PATH]: file for file in files if _PATH in (file["attributes"] or {})}


def _send(
    server: Server,
    store_id: str,
    document: _Document,
    there: dict[str, Any] | None,
    waiting: dict[str, _Document],
    outcome: Outcome,
) -> None:
    """Upload a document and have it ingested, unless it is there as it is."""
    try:
        content = document.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if there is not None and there["attributes"].get(_DIGEST) == digest:
            if there["status"] == "completed":
                outcome.unchanged += 1
                return
            if there["status"] == "in_progress":  # of a run that was interrupted
                waiting[there["id"]] = document
                return
        file = server.upload(document.path.name, content)
        body = {"file_id": file["id"], "attributes": {_PATH: document.name, _DIGEST: digest}}
        server.post(f"/v1/vector_stores/{store_id}/files", _json(body))
        waiting[file["id"]] = document
        if there is not None:
            server.delete(f"/v1/files/{quote(there['id'])}")
            outcome.replaced += 1
    except OSError as error:
        outcome.failed[document.name] = error.strerror or str(error)
    except ServerError as error:
        if error.status is None or error.status in {401, 403} or error.status >= 500:
            raise  # the next file would fare no better
        outcome.failed[document.name] = str(error)


def _settle(server: Server, store_id: str, waiting: dict[str, _Document], outcome: Outcome) -> None:
    """Take out of `waiting` what is done."""
    files = f"/v1/vector_stores/{store_id}/files"
    under_way = {file["id"] for file in _pages(server, files, "filter=in_progress&")}
    for file_id in [each for each in waiting if each not in under_way]:
        document = waiting.pop(file_id)
        try:
            file = server.get(f"{files}/{file_id}")
        except ServerError as error:
            if error.status != 404:
                raise
            file = {"status": "deleted", "last_error": None}
        if file["status"] == "completed":
            outcome.added += 1
        else:
            outcome.failed[document.name] = (file["last_error"] or {}).get("message") or f"It was {file['status']}."


def _pages(server: Server, path: str, condition: str = "") -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = server.get(f"{path}?{condition}limit={_PAGE}{after}")
        yield from page["data"]
        if not page["has_more"]:
            return
        after = f"&after={page['last_id']}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _progress(output: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=output, disable=not output.is_terminal)
