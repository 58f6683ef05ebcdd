"""What is told of one request while it is traced, by Triton's names of what it goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from backends.config import ModelConfig
from backends.tensors import Tensor


class Trace(Protocol):
    """Nanoseconds are those of `time.monotonic_ns()`. Tensors are read before the call returns, and not kept."""

    def child(self, config: ModelConfig) -> Trace:
        """Of a request that is made in its course; whoever makes that finishes it."""
        ...

    def mark(self, activity: str, ns: int = 0) -> None:
        """One of Triton's activities has begun, by default now."""
        ...

    def queued(self, inputs: Sequence[Tensor]) -> None:
        """Its model was given these."""
        ...

    def answered(self, outputs: Sequence[Tensor]) -> None:
        """Its model gave these, in one of its answers."""
        ...

    def worked(self, queued_ns: int, began_ns: int, ended_ns: int) -> None:
        """A worker has answered it: when it began to wait, was executed (0 where it was not) and had its answer."""
        ...

    def finish(self) -> None:
        """Its last answer is there, or none will come; harmless after the first time."""
        ...
