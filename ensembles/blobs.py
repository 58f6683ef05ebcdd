"""Contents of files on a disk: written whole and synced, found by their hash, each file's its own to delete.

A file's bytes are at `<hash>/<file id>`; files of the same contents share them as hard links, so that the file system
counts who still needs them and no two processes ever race about the last one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backends.errors import BodyTooLarge, Unavailable

_WRITE_BYTES = 1 << 20
_ABANDONED_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Draft:
    """Bytes on the disk that belong to no file yet."""

    path: Path
    bytes: int
    sha256: str


class Blobs:
    """The blobs of one folder. Any number of processes use it. Every method raises `Unavailable` for a disk's error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drafts = folder / "drafts"

    async def receive(self, content: AsyncIterable[bytes], limit_bytes: int | None = None) -> Draft:
        """Write what comes, in constant memory, and sync it. Raises `BodyTooLarge`; then nothing is left of it."""
        with _translated():
            descriptor, name = await asyncio.to_thread(self._make_draft)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                return await _write(file.fileno(), path, content, limit_bytes)
        except BaseException:
            await self.discard(Draft(path, 0, ""))
            raise

    async def place(self, draft: Draft, file_id: str) -> None:
        """Give the draft to a file: it stays through a power failure once this returns."""
        with _translated():
            await asyncio.to_thread(self._place, draft, file_id)

    async def discard(self, draft: Draft) -> None:
        """Delete a draft that was given to nobody."""
        with _translated():
            await asyncio.to_thread(draft.path.unlink, missing_ok=True)

    def path(self, sha256: str, file_id: str) -> Path:
        """Where a file's bytes are."""
        return self._folder / sha256[:2] / sha256 / file_id

    async def remove(self, sha256: str, file_id: str) -> None:
        """Delete a file's bytes; the disk's space is free once no file of the same contents is left."""
        with _translated():
            await asyncio.to_thread(self._remove, self.path(sha256, file_id))

    async def older_than(self, seconds: float) -> list[tuple[str, str]]:
        """(hash, file id) of all that were placed so long ago. Drafts that nobody finished are deleted."""
        with _translated():
            return await asyncio.to_thread(self._older_than, seconds)

    def _make_draft(self) -> tuple[int, str]:
        self._drafts.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(dir=self._drafts)

    def _place(self, draft: Draft, file_id: str) -> None:
        path = self.path(draft.sha256, file_id)
        while True:  # whoever deletes the last file of a folder deletes the folder
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _link_or_move(draft.path, path)
                break
            except FileExistsError:  # mkdir's: the folder was there, and was gone when it looked again
                if path.parent.exists() and not path.parent.is_dir():
                    raise
            except FileNotFoundError:
                if not draft.path.exists():
                    raise
        for folder in (path.parent, path.parent.parent, self._folder):
            _sync(folder)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # others' files are in it, or it is gone
            path.parent.rmdir()

    def _older_than(self, seconds: float) -> list[tuple[str, str]]:
        now = time.time()
        if self._drafts.is_dir():
            for draft in self._drafts.iterdir():
                with suppress(FileNotFoundError):
                    if now - draft.stat().st_mtime > _ABANDONED_SECONDS:
                        draft.unlink()
        return [(path.parent.name, path.name) for path in self._folder.glob("??/*/*") if _age(path, now) > seconds]


async def _write(descriptor: int, path: Path, content: AsyncIterable[bytes], limit_bytes: int | None) -> Draft:
    digest = hashlib.sha256()
    size = 0
    gathered = bytearray()

    def flush() -> None:
        digest.update(gathered)
        view = memoryview(gathered)
        while view:
            view = view[os.write(descriptor, view) :]

    async for piece in content:
        size += len(piece)
        if limit_bytes is not None and size > limit_bytes:
            raise BodyTooLarge(f"The file is over the limit of {limit_bytes} bytes.", param="file")
        gathered += piece
        if len(gathered) >= _WRITE_BYTES:
            with _translated():
                await asyncio.to_thread(flush)
            gathered = bytearray()
    with _translated():
        await asyncio.to_thread(flush)
        await asyncio.to_thread(os.fsync, descriptor)
    return Draft(path, size, digest.hexdigest())


def _link_or_move(draft: Path, path: Path) -> None:
    for other in path.parent.iterdir():
        try:
            os.link(other, path)
        except OSError:  # deleted just now; too many links; a file system without any
            continue
        draft.unlink()
        return
    draft.rename(path)


def _age(path: Path, now: float) -> float:
    """Seconds since it was placed: linking and renaming change a file's status."""
    try:
        return now - path.stat().st_ctime
    except FileNotFoundError:
        return 0.0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The folder of files cannot be used: {error.strerror or error}.") from error
