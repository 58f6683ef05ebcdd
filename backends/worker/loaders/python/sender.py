"""What sends a request's responses while, or long after, `execute` runs: any number, from any thread."""

from __future__ import annotations

import contextlib
import threading

from backends.errors import Code
from backends.worker.exchange import Request
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.session import Session
from backends.worker.messages import Respond

RESPONSE_COMPLETE_FINAL = 1


class InferenceResponseSender:
    """`send(response, flags)`; the last one carries `TRITONSERVER_RESPONSE_COMPLETE_FINAL`, with or without a response.

    A model without decoupled responses sends one. Dropping a sender without the final flag fails the request: whoever
    asked would wait for ever.
    """

    __slots__ = ("_lock", "_request", "_session", "_wanted", "is_closed", "sent")

    def __init__(self, session: Session, request: Request, wanted: frozenset[str]) -> None:
        self._session = session
        self._request = request
        self._wanted = wanted
        self._lock = threading.Lock()
        self.is_closed = False
        self.sent = 0

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send at once; waits while whoever asked reads slower than this sends. Raises `TritonModelException`."""
        if response is None and flags == 0:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if flags not in {0, RESPONSE_COMPLETE_FINAL}:
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is not None and not isinstance(response, InferenceResponse):
            raise TypeError(f"send: response must be an InferenceResponse, not {type(response)}")
        if self._session.is_decoupled:
            self._request.wait_for_reader()
        final = flags != 0
        key = self._request.head.id
        none = Respond(key, final=final), ()
        respond, outputs = none if response is None else response.answer(key, self._wanted, final=final)
        if final:
            self._session.tell_metrics()
        with self._lock:
            self._check(response)
            self.is_closed = final
            self.sent += response is not None
            self._session.exchange.send(respond, outputs)

    def is_cancelled(self) -> bool:
        """Whether whoever asked has left, as of now."""
        return self._request.is_cancelled()

    def replace(self, response: InferenceResponse) -> None:
        """The response was returned instead of sent. Raises `TritonModelException` where one was sent before."""
        with self._lock:
            self._check(response)
            self.is_closed = True

    def close(self) -> None:
        """Send nothing more: the request is answered otherwise."""
        self.is_closed = True

    def fail(self, message: str) -> None:
        """End the answers with an error, unless they have ended."""
        with self._lock:
            if not self.is_closed:
                self.is_closed = True
                self._session.exchange.send(Respond(self._request.head.id, error=Code.INTERNAL, message=message))

    def _check(self, response: InferenceResponse | None) -> None:
        if not self._session.is_decoupled and response is not None and self.sent:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send more than one response."
            )
        if self.is_closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if not self._session.is_decoupled and response is None and not self.sent:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
            )

    def __del__(self) -> None:
        if not self.is_closed:
            message = "the model dropped the response sender of this request without a final response"
            respond = Respond(self._request.head.id, error=Code.INTERNAL, message=message)
            with contextlib.suppress(OSError):  # the host is gone, and with it whoever waits
                self._session.exchange.send_soon(respond)
