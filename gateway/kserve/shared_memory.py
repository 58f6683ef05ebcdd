"""System shared memory that clients have registered: tensors read from it and written to it, without the network."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from backends.errors import Code, InferenceError
from backends.tensors import Tensor
from gateway.kserve.shared_state import Document, RegionPlace, SharedState

_FOLDER = Path("/dev/shm")  # noqa: S108  # where POSIX shared memory lives on Linux (shm_overview(7))


@dataclass(frozen=True, slots=True)
class Region:
    """`byte_size` bytes from `offset` of the shared memory object `key`."""

    name: str
    key: str
    offset: int
    byte_size: int


class _Mapped:
    """A region in this process's memory."""

    def __init__(self, place: RegionPlace, descriptor: int) -> None:
        self.place = place
        self._memory = mmap.mmap(descriptor, place.byte_size, offset=place.offset)
        self.view = memoryview(self._memory)

    def close(self) -> None:
        self.view.release()
        try:
            self._memory.close()
        except BufferError:  # a request under way still reads it: its last view unmaps
            pass


class Regions:
    """The regions that all server processes know by name; each maps those that it is asked to use."""

    def __init__(self, state: SharedState | None = None) -> None:
        self._state = SharedState() if state is None else state
        self._known: Document | None = None
        self._mapped: dict[str, _Mapped] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make a region known. Raises `InferenceError` in Triton's words."""
        with self._state.changing() as document:
            if name in document.regions:
                raise InferenceError(f"shared memory region '{name}' already in manager", Code.ALREADY_EXISTS)
            place = RegionPlace(key, offset, byte_size)
            _map(name, place).close()
            document.regions[name] = place

    def unregister(self, name: str) -> None:
        """Forget a region; one that is not there is fine."""
        with self._state.changing() as document:
            document.regions.pop(name, None)

    def unregister_all(self) -> None:
        with self._state.changing() as document:
            document.regions.clear()

    def list(self, name: str = "") -> list[Region]:
        """All regions, or the one of that name. Raises `InferenceError`."""
        regions = self._state.read().regions
        if name and name not in regions:
            raise InferenceError(f"Unable to find system shared memory region: '{name}'", Code.NOT_FOUND)
        return [
            Region(known, place.key, place.offset, place.byte_size)
            for known, place in sorted(regions.items())
            if name in {"", known}
        ]

    def check_cuda(self, name: str) -> None:
        """There are none of CUDA's. Raises `InferenceError` for one by name."""
        if name in self._state.read().regions:
            raise InferenceError(
                f"The region named '{name}' is registered as system shared memory, not CUDA shared memory",
                Code.NOT_FOUND,
            )
        if name:
            raise InferenceError(f"Unable to find cuda shared memory region: '{name}'", Code.NOT_FOUND)

    def read(self, name: str, offset: int, byte_size: int) -> memoryview:
        """A view of an input's bytes. Raises `InferenceError`."""
        document = self._state.read()
        if document is not self._known:
            self._forget(document)
        place = document.regions.get(name)
        if place is None:
            raise InferenceError(f"Unable to find shared memory region: '{name}'", Code.NOT_FOUND)
        if offset >= place.byte_size:
            raise InferenceError(f"Invalid offset for shared memory region: '{name}'", Code.INVALID_ARG)
        if byte_size > place.byte_size - offset or not (byte_size or offset):  # nothing at the start is Triton's fault
            raise InferenceError(f"Invalid offset + byte size for shared memory region: '{name}'", Code.INVALID_ARG)
        mapped = self._mapped.get(name)
        if mapped is None:
            mapped = self._mapped[name] = _map(name, place)
        return mapped.view[offset : offset + byte_size]

    def write(self, name: str, offset: int, byte_size: int, tensor: Tensor) -> None:
        """Put an output's bytes there. Raises `InferenceError`."""
        window = self.read(name, offset, byte_size)
        size = tensor.size_bytes
        if size > byte_size:
            raise InferenceError(
                f"shared memory size specified with the request for output '{tensor.name}' ({byte_size} bytes) should "
                f"be at least {size} bytes to hold the results",
                Code.INTERNAL,
            )
        window[:size] = tensor.data

    def close(self) -> None:
        """Unmap everything."""
        for mapped in self._mapped.values():
            mapped.close()
        self._mapped.clear()

    def _forget(self, document: Document) -> None:
        """Unmap what is no longer registered, or is registered as something else."""
        for name, mapped in tuple(self._mapped.items()):
            if document.regions.get(name) != mapped.place:
                mapped.close()
                del self._mapped[name]
        self._known = document


def _map(name: str, place: RegionPlace) -> _Mapped:
    """Map a region. Raises `InferenceError` where there is none of that key, or it is not as large."""
    unopened = InferenceError(f"Unable to open shared memory region: '{place.key}'", Code.INTERNAL)
    file = place.key.lstrip("/")
    if "/" in file or file in {"", ".", ".."}:
        raise unopened
    try:
        descriptor = os.open(_FOLDER / file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise unopened from error
    failed = f"failed to register shared memory region '{name}'"
    try:
        if place.offset + place.byte_size > os.fstat(descriptor).st_size:
            raise InferenceError(f"{failed}: invalid args", Code.INVALID_ARG)
        if place.offset % mmap.ALLOCATIONGRANULARITY or not place.byte_size:
            raise InferenceError(f"{failed}: unable to process address spaceInvalid argument", Code.INVALID_ARG)
        return _Mapped(place, descriptor)
    finally:
        os.close(descriptor)
