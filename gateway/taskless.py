"""An inference that is served without a task: from its beginning to its answer, in the turns that bring its parts.

A task, an ASGI call and two more turns of the loop cost as much as all else that is done for a small inference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeVar

from backends.errors import DeadlineExceeded, ServingError
from backends.model import InferResponse, Listenable
from gateway.plane import Plane
from gateway.telemetry import CLIENT_CLOSED_REQUEST, Exchange
from gateway.wire import Scope, Wire

_log = logging.getLogger(__name__)

_NEVER = float("inf")

Head = TypeVar("Head")
Head_co = TypeVar("Head_co", covariant=True)
Head_contra = TypeVar("Head_contra", contravariant=True)
Body = TypeVar("Body")
Body_co = TypeVar("Body_co", covariant=True)
Body_contra = TypeVar("Body_contra", contravariant=True)


class Reply(Protocol[Head_contra, Body_contra]):
    """Gives a whole answer to the client."""

    def write(self, status: int, head: Head_contra, body: Body_contra, /) -> bool:
        """At once. False, and nothing was sent, where there is more to do than to write it."""
        ...

    def whole(self, status: int, head: Head_contra, body: Body_contra, /) -> Coroutine[Any, Any, None]: ...


class Words(Protocol[Head_co, Body_co]):
    """How a family of operations words what becomes of a request."""

    def answer(self, answer: InferResponse | ServingError) -> tuple[Head_co, Body_co]:
        """The head and the body of an answer of status 200. Raises `ServingError`: the answer's own, or another."""
        ...

    def failure(self, error: ServingError) -> tuple[int, Head_co, Body_co]: ...


def is_ordinary(plane: Plane, headers: Mapping[bytes, bytes], size_bytes: int, long_way: frozenset[bytes]) -> bool:
    """Whether nothing stands between a request of this size and its model, and no field of it is in `long_way`."""
    return (
        plane.keys is None
        and not plane.draining
        and size_bytes <= plane.settings.max_body_bytes
        and long_way.isdisjoint(headers)
    )


def recorded(
    plane: Plane, operation: str, scope: Scope, headers: Mapping[bytes, bytes], model: str, began: float
) -> Exchange:
    """The record of a request that came, whole, at `began`."""
    client = scope["client"]
    record = plane.telemetry.begin(
        operation, "POST", scope["path"], client[0] if client else "", headers.get(b"x-request-id")
    )
    record.started_at = record.received_at = began
    record.route(model, False)
    return record


class Latecomers:
    """Answers that take a task after all: more has to be done for them than to write."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, wire: Wire, answer: Coroutine[Any, Any, None]) -> None:
        task = wire.loop.create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Taskless(Generic[Head, Body]):
    """One inference under way: it ends by its answer, by its deadline or a drain, or by the client's leaving."""

    __slots__ = ("_latecomers", "_plane", "_record", "_reply", "_responses", "_wire", "_words", "due")

    def __init__(
        self,
        plane: Plane,
        record: Exchange,
        wire: Wire,
        reply: Reply[Head, Body],
        words: Words[Head, Body],
        responses: Listenable,
        latecomers: Latecomers,
    ) -> None:
        self._plane = plane
        self._record = record
        self._wire = wire
        self._reply = reply
        self._words = words
        self._responses = responses
        self._latecomers = latecomers
        self.due = record.started_at + plane.settings.request_timeout
        record.sent()
        plane.clock.add(self)
        wire.on_lost = self._left
        responses.listen(self._answered)

    def tick(self, now: float) -> None:
        if now >= self.due:
            self.interrupt(DeadlineExceeded("The request did not finish before its deadline."))

    def interrupt(self, error: ServingError) -> None:
        """End it with `error`, unless it has ended."""
        if self._end():
            self._responses.leave()
            self._fail(error)

    def _left(self) -> None:
        if self._end():
            self._responses.leave()
            self._record.disconnect(CLIENT_CLOSED_REQUEST)

    def _answered(self, answer: InferResponse | ServingError) -> None:
        if not self._end():
            return
        self._record.answered()
        try:
            self._send(200, *self._words.answer(answer))
            self._record.done(200)
        except ServingError as error:
            self._fail(error)
        except Exception:  # noqa: BLE001  # the top of what serves a request
            _log.exception("A request to %s broke.", self._record.path)
            self._fail(ServingError("The gateway failed to serve this request.", code="internal_error"))

    def _fail(self, error: ServingError) -> None:
        status, head, body = self._words.failure(error)
        self._record.fail(error, status)
        self._send(status, head, body)

    def _send(self, status: int, head: Head, body: Body) -> None:
        if not self._reply.write(status, head, body):
            self._latecomers.begin(self._wire, self._reply.whole(status, head, body))

    def _end(self) -> bool:
        """Whether it was under way until now."""
        if self.due == _NEVER:
            return False
        self.due = _NEVER
        self._wire.on_lost = None
        self._plane.clock.discard(self)
        return True
