"""Documents that a pipeline brings along: what is new is read, what is gone is deleted, all else is left alone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.config import ModelConfig
from ensembles.answering.documents import documents, keep, lacks
from ensembles.records.rows import Addition, ErrorCode, Range
from tests.ensembles.library.shelf import Clock, Embedders, Shelf, opened
from tests.ensembles.memory_store import MemoryStore


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    folder, store, models, clock = tmp_path / "data", MemoryStore(), Embedders(), Clock()
    library = opened(folder, store, models, clock)
    yield Shelf(folder, store, models, clock, library)
    await library.close()


def config(folder: Path, *entries: str) -> ModelConfig:
    """A pipeline two folders below its documents."""
    version = folder / "handbook" / "1"
    version.mkdir(parents=True, exist_ok=True)
    return ModelConfig("handbook", "rag", path=str(version), arguments={"documents": list(entries)})


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


async def held(shelf: Shelf) -> dict[str, str]:
    """What is in the store that is there for everybody, by name."""
    store = await shelf.library.vector_stores.find("", "handbook")
    assert store is not None
    found = {}
    for member in (await shelf.library.members.page("", store.id, Range(100))).rows:
        file = await shelf.library.files.get("", member.file_id)
        assert file.filename not in found
        found[file.filename] = (await shelf.library.files.content("", file.id)).read_text()
    return found


async def test_documents_are_put_into_a_store_of_nobodys(shelf: Shelf, tmp_path: Path) -> None:
    write(tmp_path / "docs", apple="an apple", pear="a pear")
    await keep(shelf.library, config(tmp_path, "../../docs"))
    assert await held(shelf) == {"apple.md": "an apple", "pear.md": "a pear"}
    await shelf.ingest()
    store = await shelf.library.vector_stores.find("", "handbook")
    assert store is not None
    assert store.file_counts.completed == 2


async def test_doing_it_again_does_nothing(shelf: Shelf, tmp_path: Path) -> None:
    write(tmp_path, apple="an apple")
    pipeline = config(tmp_path, "../../apple.md")
    await keep(shelf.library, pipeline)
    before = (await shelf.library.files.page("", Range(10))).rows
    await keep(shelf.library, pipeline)
    assert (await shelf.library.files.page("", Range(10))).rows == before


async def test_what_has_changed_is_read_anew_and_what_is_gone_is_deleted(shelf: Shelf, tmp_path: Path) -> None:
    write(tmp_path / "docs", apple="an apple", pear="a pear")
    pipeline = config(tmp_path, "../../docs")
    await keep(shelf.library, pipeline)
    write(tmp_path / "docs", apple="a plum")
    (tmp_path / "docs" / "pear.md").unlink()
    await keep(shelf.library, pipeline)
    assert await held(shelf) == {"apple.md": "a plum"}
    assert len((await shelf.library.files.page("", Range(10))).rows) == 1


async def test_documents_that_a_client_has_deleted_are_missed_and_come_back(shelf: Shelf, tmp_path: Path) -> None:
    write(tmp_path / "docs", apple="an apple", pear="a pear")
    pipeline = config(tmp_path, "../../docs")
    count = await keep(shelf.library, pipeline)
    assert not await lacks(shelf.library, pipeline, count)
    store = await shelf.library.vector_stores.find("", "handbook")
    assert store is not None
    await shelf.library.files.delete("", (await shelf.library.files.page("", Range(1))).rows[0].id)
    assert await lacks(shelf.library, pipeline, count)
    await keep(shelf.library, pipeline)
    assert (await held(shelf)).keys() == {"apple.md", "pear.md"}
    await shelf.library.vector_stores.delete("", store.id)
    assert await lacks(shelf.library, pipeline, count)
    await keep(shelf.library, pipeline)
    assert (await held(shelf)).keys() == {"apple.md", "pear.md"}


async def test_a_store_of_that_name_that_somebody_else_made_is_left_alone(shelf: Shelf, tmp_path: Path) -> None:
    write(tmp_path / "docs", apple="an apple")
    await shelf.library.vector_stores.create("", "handbook", files=[Addition((await shelf.file("a pear")).id)])
    pipeline = config(tmp_path, "../../docs")
    count = await keep(shelf.library, pipeline)
    assert list((await held(shelf)).values()) == ["a pear"]
    assert not await lacks(shelf.library, pipeline, count)


async def test_a_document_that_failed_is_not_tried_again_before_it_changes(shelf: Shelf, tmp_path: Path) -> None:
    write(tmp_path, apple="an apple")
    pipeline = config(tmp_path, "../../apple.md")
    await keep(shelf.library, pipeline)
    job = await shelf.claim()
    assert job is not None
    assert await shelf.library.jobs.fail(job, ErrorCode.INVALID_FILE, "no")
    await keep(shelf.library, pipeline)
    assert await shelf.claim() is None
    write(tmp_path, apple="a pear")
    await keep(shelf.library, pipeline)
    assert await held(shelf) == {"apple.md": "a pear"}


def test_files_folders_and_patterns_name_documents(tmp_path: Path) -> None:
    write(tmp_path / "docs", apple="a", pear="b")
    write(tmp_path / "docs" / "deep", apple="c")
    (tmp_path / "docs" / "notes.txt").write_text("d")
    names = documents(config(tmp_path, "../../docs/deep", "../../docs/*.md")).keys()
    assert names == {"apple.md", "pear.md", "deep/apple.md"}
    assert documents(config(tmp_path, "../../docs/notes.txt")).keys() == {"notes.txt"}


def test_documents_that_are_not_there_are_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert documents(config(tmp_path, "../../none.md")) == {}
    assert "there is no document" in caplog.text
