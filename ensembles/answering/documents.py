"""Documents that a pipeline brings along: kept in a vector store of its name that is there for everybody."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from backends.config import ModelConfig
from ensembles.answering.shelf import NOBODY
from ensembles.library import Library
from ensembles.records.rows import Addition, File, Range, Status

_log = logging.getLogger(__name__)

_PURPOSE = "assistants"
_PAGE = 100


def documents(config: ModelConfig) -> dict[str, Path]:
    """The documents that are there, by the names that they get: their paths, from where they part on.

    `documents` in `pipeline.json` are files, folders or patterns, relative to it.
    """
    folder = Path(config.path)
    found: set[Path] = set()
    for entry in config.arguments.get("documents") or ():
        path = Path(os.path.normpath(folder / entry))
        matches = [path] if path.exists() else list(_matches(path))
        if not matches:
            _log.warning("%s: there is no document %s", config.name, path)
        for match in matches:
            found.update(each for each in match.rglob("*") if each.is_file()) if match.is_dir() else found.add(match)
    if not found:
        return {}
    root = Path(os.path.commonpath([path.parent for path in found]))
    return {path.relative_to(root).as_posix(): path for path in sorted(found)}


async def keep(library: Library, config: ModelConfig) -> int:
    """Have the store hold these documents as they are now; nothing is done for those that it holds already.

    Returns how many there are, 0 where somebody else has a store of that name: it is left alone, and answered from.
    Raises `ServingError` of the library.
    """
    wanted = await asyncio.to_thread(_read, documents(config))
    store, description = await library.vector_stores.find(NOBODY, config.name), f"Documents of '{config.name}'."
    if store is None:
        store = await library.vector_stores.create(NOBODY, config.name, description=description)
    elif store.description != description:
        _log.warning("%s: its documents are not read, for the store of that name is somebody's", config.name)
        return 0
    there = await _members(library, store.id)
    for name, (path, sha256) in wanted.items():
        if there.get(name) and there[name][0].sha256 == sha256:
            there[name] = there[name][1:]
            continue
        file = await library.files.create(NOBODY, name, _PURPOSE, _content(path))
        await library.members.add(NOBODY, store.id, Addition(file.id))
        _log.info("%s: %s is being read", config.name, name)
    for file in (file for files in there.values() for file in files):
        await library.files.delete(NOBODY, file.id)
    return len(wanted)


async def lacks(library: Library, config: ModelConfig, count: int) -> bool:
    """Whether the store is gone, or has fewer documents: without keys what is nobody's is everybody's to delete."""
    store = await library.vector_stores.find(NOBODY, config.name)
    return store is None or store.file_counts.total < count


def _matches(pattern: Path) -> Sequence[Path]:
    """The paths of a pattern with stars in its last parts."""
    for parent in pattern.parents:
        if parent.is_dir():
            return sorted(parent.glob(pattern.relative_to(parent).as_posix()))
    return ()


def _read(found: Mapping[str, Path]) -> dict[str, tuple[Path, str]]:
    return {name: (path, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in found.items()}


async def _members(library: Library, store_id: str) -> dict[str, list[File]]:
    """The files of a store by their names; of several of one name the newest first, those that failed last."""
    files: dict[str, list[File]] = {}
    after = ""
    while True:
        page = await library.members.page(NOBODY, store_id, Range(_PAGE, "desc", after))
        for member in page.rows:
            file = await library.files.get(NOBODY, member.file_id)
            named = files.setdefault(file.filename, [])
            named.insert(len(named) if member.status in {Status.FAILED, Status.CANCELLED} else 0, file)
        if not page.has_more:
            return files
        after = page.rows[-1].file_id


async def _content(path: Path) -> AsyncIterator[bytes]:
    yield await asyncio.to_thread(path.read_bytes)
