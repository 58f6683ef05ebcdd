"""A gRPC call as the RPCs see it, and how errors become its status (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from typing import Protocol

from backends.errors import (
    Code,
    DeadlineExceeded,
    InferenceError,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    ServingError,
)
from backends.tensors import Buffer
from gateway.errors import triton_code


class Status(IntEnum):
    """gRPC's status codes, those that are used here."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Call(Protocol):
    """One call under way. Its task is cancelled when the client leaves, cancels it or lets its deadline pass."""

    metadata: Mapping[str, str]
    """What the client sent beside its messages; names in lower case, of several values the last one."""
    deadline: float | None
    """When the client's time is up, in `time.monotonic()` seconds."""

    @property
    def client(self) -> str:
        """The client's address."""
        ...

    async def read(self) -> Buffer | None:
        """The next message of a stream; None once the client has sent its last one."""
        ...

    async def write(self, parts: list[Buffer]) -> None:
        """Send one message, these parts joined; returns when the next may be sent. One caller at a time."""
        ...


Unary = Callable[[Buffer, Call], Awaitable[list[Buffer]]]
"""Answers one message by one message, in parts. Raises `ServingError`."""

Stream = Callable[[Call], Awaitable[None]]
"""Reads and writes messages until it returns. Raises `ServingError`."""

_STATUS = {
    Code.UNKNOWN: Status.UNKNOWN,
    Code.INTERNAL: Status.INTERNAL,
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.INVALID_ARG: Status.INVALID_ARGUMENT,
    Code.UNAVAILABLE: Status.UNAVAILABLE,
    Code.UNSUPPORTED: Status.UNIMPLEMENTED,
    Code.ALREADY_EXISTS: Status.ALREADY_EXISTS,
    Code.CANCELLED: Status.CANCELLED,
}

# Kinds for which gRPC has a better word than Triton's codes.
_OWN_STATUS: tuple[tuple[type[ServingError], Status], ...] = (
    (NotAuthenticated, Status.UNAUTHENTICATED),
    (NotPermitted, Status.PERMISSION_DENIED),
    (DeadlineExceeded, Status.DEADLINE_EXCEEDED),
    (RateLimited, Status.RESOURCE_EXHAUSTED),
)


def status_of(error: ServingError) -> Status:
    if not isinstance(error, InferenceError):
        for kind, status in _OWN_STATUS:
            if isinstance(error, kind):
                return status
    return _STATUS[triton_code(error)]
