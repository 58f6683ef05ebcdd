"""System shared memory that clients have registered: tensors read from it and written to it, without the network."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from backends.errors import Code, InferenceError
from backends.tensors import Tensor

_FOLDER = Path("/dev/shm")  # noqa: S108  # where POSIX shared memory lives on Linux (shm_overview(7))


@dataclass(slots=True)
class Region:
    """`byte_size` bytes from `offset` of the shared memory object `key`; `view` is of these bytes."""

    name: str
    key: str
    offset: int
    byte_size: int
    view: memoryview
    mapped: mmap.mmap


class Regions:
    """The regions by name, mapped into this process."""

    def __init__(self) -> None:
        self._by_name: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map a region. Raises `InferenceError` in Triton's words."""
        if name in self._by_name:
            raise InferenceError(f"shared memory region '{name}' already in manager", Code.ALREADY_EXISTS)
        self._by_name[name] = _map(name, key, offset, byte_size)

    def unregister(self, name: str) -> None:
        """Forget a region; one that is not there is fine."""
        region = self._by_name.pop(name, None)
        if region is not None:
            _unmap(region)

    def unregister_all(self) -> None:
        for name in tuple(self._by_name):
            self.unregister(name)

    def list(self, name: str = "") -> list[Region]:
        """All regions, or the one of that name. Raises `InferenceError`."""
        if not name:
            return list(self._by_name.values())
        region = self._by_name.get(name)
        if region is None:
            raise InferenceError(f"Unable to find system shared memory region: '{name}'", Code.NOT_FOUND)
        return [region]

    def read(self, name: str, offset: int, byte_size: int) -> memoryview:
        """A view of an input's bytes. Raises `InferenceError`."""
        return self._window(name, offset, byte_size)

    def write(self, name: str, offset: int, byte_size: int, tensor: Tensor) -> None:
        """Put an output's bytes there. Raises `InferenceError`."""
        window = self._window(name, offset, byte_size)
        size = tensor.size_bytes
        if size > byte_size:
            raise InferenceError(
                f"shared memory size specified with the request for output '{tensor.name}' ({byte_size} bytes) should "
                f"be at least {size} bytes to hold the results",
                Code.INTERNAL,
            )
        window[:size] = tensor.data

    def _window(self, name: str, offset: int, byte_size: int) -> memoryview:
        region = self._by_name.get(name)
        if region is None:
            raise InferenceError(f"Unable to find shared memory region: '{name}'", Code.NOT_FOUND)
        if offset + byte_size > region.byte_size:
            raise InferenceError(f"Invalid offset + byte size for shared memory region: '{name}'", Code.INVALID_ARG)
        return region.view[offset : offset + byte_size]


def _map(name: str, key: str, offset: int, byte_size: int) -> Region:
    unopened = InferenceError(f"Unable to open shared memory region: '{key}'", Code.INTERNAL)
    file = key.removeprefix("/")
    if "/" in file or file in {"", ".", ".."}:
        raise unopened
    try:
        descriptor = os.open(_FOLDER / file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise unopened from error
    try:
        size = os.fstat(descriptor).st_size
        if offset + byte_size > size:
            raise InferenceError(f"failed to register shared memory region '{name}': invalid args", Code.INVALID_ARG)
        mapped = mmap.mmap(descriptor, offset + byte_size)
    finally:
        os.close(descriptor)
    return Region(name, key, offset, byte_size, memoryview(mapped)[offset:], mapped)


def _unmap(region: Region) -> None:
    region.view.release()
    try:
        region.mapped.close()
    except BufferError:  # a request under way still reads it: the last view unmaps
        pass
