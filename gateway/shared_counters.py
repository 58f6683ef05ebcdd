"""Counts that the server processes of one machine share: a table in a file that each of them maps into its memory."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time

from backends.errors import Unavailable
from gateway.tenants import Window

# A key's digest, zero where no key has ever been; when its window ends, 0 for a record that is free again, and
# below 0 for places, which the process of that number holds; the count.
_RECORD = struct.Struct("=16sqq")
_NEVER = bytes(16)
_FREE = 0
# The file takes space only for those that were used.
_RECORDS = 1 << 16
_PROBES = 64
_SPARE_SECONDS = 5


class SharedCounters:
    """A hash table of `records` with open addressing; a lock of the kernel's, held for microseconds, makes steps whole.

    The kernel frees the lock of a process that is killed; places that it held are given back by its successor.
    """

    def __init__(self, path: Path, process: int, processes: int, records: int = _RECORDS) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, records * _RECORD.size)
        self._table = mmap.mmap(self._fd, records * _RECORD.size)
        self._records = records
        self._process = process
        self._processes = processes
        self._free_places_of_before()

    async def take(self, windows: Sequence[Window], now: float, tokens: int) -> Sequence[int]:
        with self._locked():
            return [
                self._put(
                    _digest(_key(window, now)),
                    math.ceil(now + window.left(now)) + _SPARE_SECONDS,
                    tokens if window.counts_tokens else 1,
                )
                for window in windows
            ]

    def adjust(self, window: Window, then: float, amount: int) -> None:
        digest = _digest(_key(window, then))
        with self._locked():
            found = self._find(digest)
            if found is not None:  # else its window is over
                at, ends_at, count = found
                _RECORD.pack_into(self._table, at, digest, ends_at, count + amount)

    async def occupy(self, tenant: str, limit: int) -> bool:
        with self._locked():
            taken = 0
            for process in range(self._processes):
                found = self._find(_digest(_places(tenant, process)))
                taken += found[2] if found is not None else 0
            if taken < limit:
                self._put(_digest(_places(tenant, self._process)), self._mark, 1)
            return taken < limit

    def vacate(self, tenant: str) -> None:
        digest = _digest(_places(tenant, self._process))
        with self._locked():
            found = self._find(digest)
            assert found is not None, "a place is given back once"
            at, _, count = found
            _RECORD.pack_into(self._table, at, digest, self._mark if count > 1 else _FREE, count - 1)

    async def run(self) -> None:
        # The end of the process closes the table: requests that are cut at the very end are still counted.
        await asyncio.get_running_loop().create_future()

    @property
    def _mark(self) -> int:
        return -1 - self._process

    def _put(self, digest: bytes, ends_at: int, amount: int) -> int:
        """Add to a record, in the first free one where there is none yet. Raises `Unavailable` when all are taken."""
        found = self._find(digest)
        if found is not None:
            at, ends_at, count = found
            _RECORD.pack_into(self._table, at, digest, ends_at, count + amount)
            return count + amount
        now = int(time())
        for at in self._probes(digest):
            _, end, _ = _RECORD.unpack_from(self._table, at)
            if end == _FREE or 0 < end < now:
                _RECORD.pack_into(self._table, at, digest, ends_at, amount)
                return amount
        raise Unavailable("The table of tenants' limits is full.", retry_after_seconds=1.0)

    def _find(self, digest: bytes) -> tuple[int, int, int] | None:
        """Where a record is, when it ends, and its count."""
        for at in self._probes(digest):
            there, ends_at, count = _RECORD.unpack_from(self._table, at)
            if there == digest and ends_at != _FREE:
                return at, ends_at, count
            if there == _NEVER:  # a record that was used never looks so again: there is none behind it
                return None
        return None

    def _free_places_of_before(self) -> None:
        with self._locked():
            for at in range(0, self._records * _RECORD.size, _RECORD.size):
                digest, ends_at, _ = _RECORD.unpack_from(self._table, at)
                if ends_at == self._mark:
                    _RECORD.pack_into(self._table, at, digest, _FREE, 0)

    def _probes(self, digest: bytes) -> Iterator[int]:
        start = int.from_bytes(digest[:4], "little")
        return (((start + step) % self._records) * _RECORD.size for step in range(_PROBES))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def _key(window: Window, now: float) -> str:
    return f"{window.key}{window.index(now)}"


def _places(tenant: str, process: int) -> str:
    return f"streams/{process}/{tenant}"


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
