"""What clients set at one server process and all of a machine must know: a small JSON file that they share.

Reading costs one `stat` as long as nothing changed. A server process that is started anew finds what the others know.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.kserve.log_settings import LogSettings


class RegionPlace(msgspec.Struct, frozen=True):
    """Where a region of shared memory lies: `byte_size` bytes from `offset` of the object `key`."""

    key: str
    offset: int
    byte_size: int


class Document(msgspec.Struct):
    """All that is shared. `traces` are the settings of single models by their names, of the server under ""."""

    regions: dict[str, RegionPlace] = {}
    traces: dict[str, dict[str, Any]] = {}
    logs: LogSettings = msgspec.field(default_factory=LogSettings)


_decode = msgspec.json.Decoder(Document).decode


class SharedState:
    """The document in the file at `path`; in this process alone where that is None. `logs` are those of the start."""

    def __init__(
        self, path: Path | None = None, traces: Mapping[str, Any] | None = None, logs: LogSettings | None = None
    ) -> None:
        self.traces = traces or {}
        """The trace settings of the start, by Triton's names."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._document = Document(logs=logs or LogSettings())

    def read(self) -> Document:
        """What is known now: the same object until something changes. It is only read."""
        if self._path is not None:
            try:
                found = self._path.stat()
            except FileNotFoundError:
                return self._document
            stamp = found.st_mtime_ns, found.st_ino
            if stamp != self._stamp:
                self._document = _decode(self._path.read_bytes())
                self._stamp = stamp
        return self._document

    @contextmanager
    def changing(self) -> Iterator[Document]:
        """A copy that takes the document's place at the end, unless the block raises. One process at a time."""
        if self._path is None:
            draft = _decode(msgspec.json.encode(self._document))
            yield draft
            self._document = draft
            return
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for microseconds
            draft = _decode(msgspec.json.encode(self.read()))
            yield draft
            beside = self._path.with_suffix(".new")
            beside.write_bytes(msgspec.json.encode(draft))
            beside.replace(self._path)
        finally:
            os.close(lock)
