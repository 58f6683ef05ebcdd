"""Watches one exchange: its client's departure, its deadline, the engine's silence, the stream's keep-alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from backends.errors import DeadlineExceeded, InvalidRequest, ServingError, UpstreamTimeout
from backends.model import OpenAIRequest
from gateway.body import ClientLeft
from gateway.clock import Clock
from gateway.settings import Settings
from gateway.wire import Wire

_log = logging.getLogger(__name__)

_NEVER = float("inf")


class Watch:
    """Interrupts the task that serves a request, by cancelling it: `left` or `error` then says why.

    The relay says what it waits for: `on_engine` while it is the engine (and not the queue, nor a client that reads
    slowly), last heard of at `heard_at`; `first` until its first bytes came.
    """

    __slots__ = (
        "_settings",
        "_task",
        "_wire",
        "commented_at",
        "deadline",
        "due",
        "error",
        "first",
        "heard_at",
        "left",
        "on_engine",
        "on_silence",
        "request",
    )

    def __init__(self, settings: Settings, task: asyncio.Task[Any], wire: Wire, deadline: float) -> None:
        self._settings = settings
        self._task = task
        self._wire = wire
        self.deadline = self.due = deadline
        self.left = False
        self.error: ServingError | None = None
        self.on_engine = False
        self.heard_at = self.commented_at = 0.0
        self.first = True
        self.on_silence: Callable[[], None] | None = None
        self.request: OpenAIRequest | None = None
        """Once it is on its way: its model may try elsewhere when an engine stalls."""

    async def over(self, work: Coroutine[Any, Any, None], clock: Clock) -> ServingError | None:
        """Do the work of the exchange under this watch, whatever becomes of it; the error to answer with, if any.

        Called by the task that is watched. `left` says afterwards whether the client did not wait for the end.
        """
        clock.add(self)
        try:
            await work
        except ClientLeft:
            self.left = True
        except asyncio.CancelledError:
            if self.error is None and not self.left:
                raise
            self._task.uncancel()
            return self.error
        except ServingError as error:
            return error
        except Exception:  # noqa: BLE001  # the top of a request's task
            _log.exception("A request broke.")
            return ServingError("The gateway failed to serve this request.", code="internal_error")
        finally:
            self.close()
            clock.discard(self)
        return None

    def shorten(self, deadline: float) -> None:
        """The client's own deadline, in `time.monotonic()` seconds; the server's still holds."""
        self.deadline = self.due = min(self.deadline, deadline)

    def departure(self) -> None:
        """From now on the client's leaving interrupts."""
        self._wire.on_lost = self._client_left
        if self._wire.lost:
            self._client_left()

    def stream(self, on_silence: Callable[[], None]) -> None:
        """The answer is a stream: from now on stalls and keep-alives are looked after too."""
        self.on_silence = on_silence
        self.heard_at = monotonic()
        self._plan()

    def close(self) -> None:
        """Stop watching the client. Harmless when repeated."""
        self.on_silence = None
        self.deadline = _NEVER
        self._wire.on_lost = None

    def tick(self, now: float) -> None:
        if now >= self.deadline:
            self.interrupt(DeadlineExceeded("The request did not finish before its deadline."))
        elif self.on_silence is not None:
            silent_since = max(self.heard_at, self.commented_at)
            if self.on_engine and now >= self.heard_at + self._patience():
                what = "sent no first token" if self.first else "sent nothing more"
                stall = UpstreamTimeout(f"The engine {what} within {self._patience():g} s.")
                if self.request is None or self.request.stall is None or not self.request.stall(stall):
                    self.interrupt(stall)
                    return
                self.heard_at = now
            if now >= silent_since + self._settings.keepalive_seconds:
                self.commented_at = now
                self.on_silence()
            self._plan()

    def interrupt(self, error: ServingError) -> None:
        """End the exchange with `error`, unless it is ending already."""
        self.deadline = self.due = _NEVER
        self.on_silence = None
        if self.error is None and not self.left:
            self.error = error
            self._task.cancel()

    def _patience(self) -> float:
        return self._settings.first_token_timeout if self.first else self._settings.stall_timeout

    def _plan(self) -> None:
        # `heard_at` and `first` move with each chunk: when `due` comes they are looked at again.
        settings = self._settings
        now = monotonic()
        silence = min(settings.first_token_timeout, settings.stall_timeout)
        self.due = min(
            self.deadline,
            max(self.heard_at, self.commented_at) + settings.keepalive_seconds,
            max(now, (self.heard_at if self.on_engine else now) + silence),
        )

    def _client_left(self) -> None:
        if not self.left:
            self.left = True
            self._task.cancel()


def read_timeout(milliseconds: bytes) -> float:
    """The value of `X-Request-Timeout-Ms` in seconds. Raises `InvalidRequest`."""
    try:
        seconds = float(milliseconds) / 1000
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _NEVER:
        text = milliseconds.decode("latin-1")
        raise InvalidRequest(f"X-Request-Timeout-Ms must be a positive number of milliseconds, not {text!r}.")
    return seconds
