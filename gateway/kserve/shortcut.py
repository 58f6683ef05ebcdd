"""An inference whose body is there at once, served without a task: begun in the turn that brings it, answered likewise.

A task, an ASGI call and two more turns of the loop cost as much as all else that is done for a small inference. What
is out of the ordinary (keys, limits, compression, errors of any kind before the model is asked, …) goes the long way,
by `http.py`, from its beginning: nothing has happened by then.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any, cast

from backends.errors import DeadlineExceeded, ServingError
from backends.model import InferResponse, Listenable
from backends.tensors import Buffer
from gateway.errors import status_and_type
from gateway.kserve.dataplane import DataPlane, Served
from gateway.kserve.http_reply import HttpReply
from gateway.kserve.http_request import Inference, json_bytes, read_inference
from gateway.kserve.http_response import head_lines, write_inference
from gateway.kserve.permits import is_free
from gateway.kserve.routes import Routes
from gateway.plane import Plane
from gateway.telemetry import CLIENT_CLOSED_REQUEST, Exchange
from gateway.tenants import ANYONE
from gateway.wire import Scope, Send, Wire

_log = logging.getLogger(__name__)

_PREFIX, _SUFFIX = b"/v2/models/", b"/infer"
_LONG_WAY = frozenset({b"content-encoding", b"accept-encoding", b"x-request-timeout-ms", b"traceparent"})
"""Header fields with which a request goes the long way."""
_NEVER = float("inf")


class Shortcut:
    """What a connection asks for each request (`gateway.wire.Shortcut`)."""

    def __init__(self, plane: Plane, dataplane: DataPlane) -> None:
        self._plane = plane
        self._dataplane = dataplane
        self._routes = Routes()
        self._is_open = not plane.settings.http_header_forward_pattern
        self._answering: set[asyncio.Task[None]] = set()

    def concerns(self, scope: Scope) -> bool:
        path: bytes = scope["raw_path"]
        return self._is_open and path.startswith(_PREFIX) and path.endswith(_SUFFIX) and scope["method"] == "POST"

    def serve(self, scope: Scope, body: bytearray, wire: Wire, send: Send) -> bool:
        """Begin the inference. False, and nothing was done: it goes the long way."""
        plane = self._plane
        route = self._routes.find(scope["raw_path"])
        if route is None or route.operation != "infer":
            return False
        headers = dict(scope["headers"])
        size = len(body)
        if (
            plane.keys is not None
            or plane.draining
            or size > plane.settings.max_body_bytes
            or not _LONG_WAY.isdisjoint(headers)
        ):
            return False
        try:
            served = self._dataplane.find(route.model, route.version, ANYONE)
            if not served.is_listenable or not is_free(served, ANYONE):
                return False
            inference = read_inference(body, json_bytes(headers, size), served, self._dataplane.regions)
            if any(wanted.classes or wanted.region for wanted in inference.wanted):
                return False
            began = monotonic()
            inference.request.deadline = began + plane.settings.request_timeout
            responses = cast("Listenable", self._dataplane.infer(served, inference.request, inference.wanted))
        except Exception:  # noqa: BLE001  # the long way comes to the same, and tells
            return False
        client = scope["client"]
        record = plane.telemetry.begin(
            "infer", "POST", scope["path"], client[0] if client else "", headers.get(b"x-request-id")
        )
        record.started_at = record.received_at = began
        record.route(served.config.name, False)
        _Inference(self, plane, record, served, inference, HttpReply(wire, send), responses)
        return True

    def answer_later(self, reply: HttpReply, status: int, lines: bytes, parts: list[Buffer]) -> None:
        """Answer in a task: where more has to be done for it than to write."""
        task = reply.wire.loop.create_task(reply.whole(status, lines, parts))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)


class _Inference:
    """One inference under way: it ends by its answer, by its deadline or a drain, or by the client's leaving."""

    __slots__ = ("_inference", "_plane", "_record", "_reply", "_responses", "_served", "_shortcut", "due")

    def __init__(
        self,
        shortcut: Shortcut,
        plane: Plane,
        record: Exchange,
        served: Served,
        inference: Inference,
        reply: HttpReply,
        responses: Listenable,
    ) -> None:
        self._shortcut = shortcut
        self._plane = plane
        self._record = record
        self._served = served
        self._inference = inference
        self._reply = reply
        self._responses = responses
        self.due = record.started_at + plane.settings.request_timeout
        reply.own_lines = b"x-request-id: %b\r\n" % record.request_id
        record.sent()
        plane.clock.add(self)
        reply.wire.on_lost = self._left
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
        error = answer.error if isinstance(answer, InferResponse) else answer
        if error is not None:
            self._fail(error)
            return
        assert isinstance(answer, InferResponse)
        try:
            self._record.answered()
            text, binary = write_inference(self._inference, self._served, answer)
            self._send(200, head_lines(text, binary), [text, *binary])
            self._record.done(200)
        except ServingError as refused:
            self._fail(refused)
        except Exception:  # noqa: BLE001  # the top of what serves a request
            _log.exception("A request to %s broke.", self._record.path)
            self._fail(ServingError("The gateway failed to serve this request.", code="internal_error"))

    def _fail(self, error: ServingError) -> None:
        status = status_and_type(error)[0]
        self._record.fail(error, status)
        self._send(status, *self._reply.failure(error.message))

    def _send(self, status: int, lines: bytes, parts: list[Any]) -> None:
        if not self._reply.write(status, lines, parts):
            self._shortcut.answer_later(self._reply, status, lines, parts)

    def _end(self) -> bool:
        """Whether it was under way until now."""
        if self.due == _NEVER:
            return False
        self.due = _NEVER
        self._reply.wire.on_lost = None
        self._plane.clock.discard(self)
        return True
