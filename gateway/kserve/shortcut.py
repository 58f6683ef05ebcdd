"""An inference whose body is there at once, served without a task: begun in the turn that brings it, answered likewise.

What is out of the ordinary (keys, limits, compression, errors of any kind before the model is asked, …) goes the long
way, by `http.py`, from its beginning: nothing has happened by then.
"""

from __future__ import annotations

from time import monotonic
from typing import cast

from backends.errors import ServingError
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
from gateway.taskless import Latecomers, Taskless, is_ordinary, recorded
from gateway.tenants import ANYONE
from gateway.wire import Scope, Send, Wire

_PREFIX, _SUFFIX = b"/v2/models/", b"/infer"
_LONG_WAY = frozenset({b"content-encoding", b"accept-encoding", b"x-request-timeout-ms", b"traceparent"})
"""Header fields with which a request goes the long way."""


class Shortcut:
    """What a connection asks for each request (`gateway.wire.Shortcut`)."""

    def __init__(self, plane: Plane, dataplane: DataPlane) -> None:
        self._plane = plane
        self._dataplane = dataplane
        self._routes = Routes()
        self._is_open = not plane.settings.http_header_forward_pattern
        self._latecomers = Latecomers()

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
        if self._dataplane.tracer.is_on or not is_ordinary(plane, headers, size, _LONG_WAY):
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
        record = recorded(plane, "infer", scope, headers, served.config.name, began)
        reply = HttpReply(wire, send)
        reply.own_lines = b"x-request-id: %b\r\n" % record.request_id
        Taskless(plane, record, wire, reply, _Words(inference, served, reply), responses, self._latecomers)
        return True


class _Words:
    """KServe's words for one inference (`gateway.taskless.Words`)."""

    __slots__ = ("_inference", "_reply", "_served")

    def __init__(self, inference: Inference, served: Served, reply: HttpReply) -> None:
        self._inference = inference
        self._served = served
        self._reply = reply

    def answer(self, answer: InferResponse | ServingError) -> tuple[bytes, list[Buffer]]:
        error = answer.error if isinstance(answer, InferResponse) else answer
        if error is not None:
            raise error
        assert isinstance(answer, InferResponse)
        text, binary = write_inference(self._inference, self._served, answer)
        return head_lines(text, binary), [text, *binary]

    def failure(self, error: ServingError) -> tuple[int, bytes, list[Buffer]]:
        lines, parts = self._reply.failure(error.message)
        return status_and_type(error)[0], lines, [*parts]
