"""Fallbacks: where a model fails before its answer began, another one answers instead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backends.engine.naming import Naming
from backends.errors import ServingError, UpstreamTimeout
from gateway.telemetry import Exchange
from gateway.watch import Watch

Covers = Callable[[int], bool]
"""Whether an engine's answer of this status is to be had from the next model instead."""


class Refused(ServingError):
    """An engine's answer has a status that is covered. It never reaches a client: the next model is asked."""


class Stall:
    """Breaks the attempt under way off, for a model that does not do so itself: what `OpenAIRequest.stall` may be."""

    __slots__ = ("_task", "_watch", "error")

    def __init__(self, watch: Watch) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = watch
        self.error: UpstreamTimeout | None = None

    def __call__(self, error: UpstreamTimeout) -> bool:
        if not self._watch.first or self.error is not None:
            return False
        self.error = error
        self._task.cancel()
        return True

    def caught(self) -> UpstreamTimeout | None:
        """The stall that a cancellation comes of; None where somebody else cancels."""
        error, self.error = self.error, None
        return None if error is None or self._task.uncancel() else error


async def first_of(
    names: Sequence[str],
    naming: Naming,
    attempt: Callable[[str, Covers | None, Stall | None], Awaitable[None]],
    record: Exchange,
    watch: Watch,
) -> None:
    """Have one model of `names` after the other attempted, as long as `naming` covers what the one before failed with.

    Raises what an attempt failed with where it is not covered, where the client has got bytes of an answer already, or
    where there is no other model left.
    """
    for name, following in zip(names, [*names[1:], ""], strict=True):
        if not following:
            await attempt(name, None, None)
            return
        stall = Stall(watch)
        try:
            await attempt(name, naming.covers_status, stall)
        except Refused:
            pass
        except asyncio.CancelledError:
            stalled = stall.caught()
            if stalled is None:
                raise
            if not naming.covers(stalled):
                raise stalled from None
        except ServingError as error:
            if not watch.first or not naming.covers(error):
                raise
        else:
            return
        watch.on_engine = False
        record.fall_back(following)
