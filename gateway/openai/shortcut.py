"""Requests whose answer is one inference, served without a task where nothing is out of the ordinary.

What is (keys, limits, fallbacks, aliases, errors of any kind before the model is asked, …) goes the long way, by
`gateway/intake.py`, from its beginning: nothing has happened by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from backends.errors import ServingError
from backends.model import Begun, Headers, InferResponse, OpenAIRequest
from gateway.errors import render
from gateway.operations import Operation
from gateway.plane import Plane
from gateway.reply import Reply
from gateway.taskless import Latecomers, Taskless, is_ordinary, recorded
from gateway.telemetry import Exchange
from gateway.wire import Scope, Send, Wire

_LONG_WAY = frozenset({b"content-encoding", b"x-request-timeout-ms", b"traceparent"})
"""Header fields with which a request goes the long way."""
# A larger body is read once, the long way: here it may be read for nothing, and a task is a small part of its cost.
_MOST_BYTES = 1 << 14
_JSON = [(b"content-type", b"application/json")]


class Shortcut:
    """What a connection asks for each request (`gateway.protocol.Shortcut`)."""

    def __init__(self, plane: Plane, operations: Iterable[Operation]) -> None:
        self._plane = plane
        self._dialects = {operation.path: operation.dialect for operation in operations}
        self._latecomers = Latecomers()

    def concerns(self, scope: Scope) -> bool:
        return scope["path"] in self._dialects and scope["method"] == "POST"

    def serve(self, scope: Scope, body: bytearray, wire: Wire, send: Send) -> bool:
        """Begin to answer. False, and nothing was done: it goes the long way."""
        plane, dialect = self._plane, self._dialects[scope["path"]]
        headers = dict(scope["headers"])
        if len(body) > _MOST_BYTES or not is_ordinary(plane, headers, len(body), _LONG_WAY):
            return False
        began = monotonic()
        try:
            call = dialect.read(bytes(body))
            entry = plane.registry.find(call.model)
            if entry.status.config.name != call.model or entry.naming.fallbacks or entry.gate.permits is not None:
                return False
            begin: Callable[[OpenAIRequest], Begun | None] | None
            begin = getattr(plane.registry.usable(entry, dialect.capability), "begin", None)
            if begin is None or call.stream:
                return False
            deadline = began + plane.settings.request_timeout
            request = OpenAIRequest(scope["path"], call.body, call.model, False, (), deadline)
            begun = begin(request)
        except Exception:  # noqa: BLE001  # the long way comes to the same, and tells
            return False
        if begun is None:
            return False
        record = recorded(plane, dialect.operation, scope, headers, call.model, began)
        record.admit()
        record.took(request.route)
        plane.decisions.begin(record, call.model, call.body).took(request)
        reply = Reply(dialect, record.request_id, wire, send)
        Taskless(plane, record, wire, reply, _Words(begun, record), begun.responses, self._latecomers)
        return True


class _Words:
    """OpenAI's words for one inference (`gateway.taskless.Words`)."""

    __slots__ = ("_begun", "_record")

    def __init__(self, begun: Begun, record: Exchange) -> None:
        self._begun = begun
        self._record = record

    def answer(self, answer: InferResponse | ServingError) -> tuple[Headers, bytes]:
        body, self._record.prompt_tokens = self._begun.word(answer)
        self._record.completion_tokens = 0
        return _JSON, body

    def failure(self, error: ServingError) -> tuple[int, Headers, bytes]:
        return render(error)
