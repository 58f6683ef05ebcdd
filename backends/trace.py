"""What is told of one request while it is traced, by Triton's names of what it goes through."""

from __future__ import annotations

from typing import Protocol

from backends.config import ModelConfig


class Trace(Protocol):
    """Nanoseconds are those of `time.monotonic_ns()`."""

    def child(self, config: ModelConfig) -> Trace:
        """Of a request that is made in its course."""
        ...

    def mark(self, activity: str, ns: int = 0) -> None:
        """One of Triton's activities has begun, by default now."""
        ...

    def worked(self, queued_ns: int, began_ns: int, ended_ns: int) -> None:
        """A worker has answered it: when it began to wait, was executed (0 where it was not) and had its answer."""
        ...

    def finish(self) -> None:
        """Its last answer is there."""
        ...
