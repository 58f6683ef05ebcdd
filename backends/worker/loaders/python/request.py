"""An inference request: one that came to the model, or one that the model makes to ask another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from enum import Enum, IntEnum
from typing import Any

from backends.worker.exchange import Answer, Request
from backends.worker.loaders.python import calls
from backends.worker.loaders.python.arguments import text, whole
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.response import InferenceResponse, checked_parameters
from backends.worker.loaders.python.sender import InferenceResponseSender
from backends.worker.loaders.python.session import Session, current
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Infer, Scalar

SEQUENCE_START = 1
SEQUENCE_END = 2
RELEASE_ALL = 1
RELEASE_RESCHEDULE = 2


class MemoryType(IntEnum):
    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1

    __str__ = Enum.__str__
    __format__ = Enum.__format__


class PreferredMemory:
    """Where the answer's tensors are wanted. They come in the host's memory in any case."""

    def __init__(self, preferred_memory_type: Any, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = preferred_memory_type
        self.preferred_device_id = preferred_device_id


class InferenceTrace:
    """The trace that a request belongs to: hand it on to the requests that are made in its course."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def get_context(self) -> str | None:
        """The trace context as the JSON text of its header fields (W3C), None where the request is not traced."""
        return json.dumps({"traceparent": self.traceparent}) if self.traceparent else None


class InferenceRequest:
    """`InferenceRequest(model_name=…, requested_output_names=[…], inputs=[Tensor, …])`, and what `execute` is given."""

    __slots__ = ("_head", "_inputs", "_release", "_request", "_sender", "_session", "_wanted")

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Iterable[Tensor] | None = None,
        requested_output_names: Iterable[str] | None = None,
        model_name: str | None = None,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: dict[str, Scalar] | None = None,
    ) -> None:
        del preferred_memory
        if inputs is None or requested_output_names is None or model_name is None:
            raise TypeError("InferenceRequest needs inputs, requested_output_names and model_name")
        if not isinstance(correlation_id, (int, str)):
            raise TritonModelException("Correlation ID must be integer or string")
        request_id = text(request_id, "InferenceRequest: request_id")
        model_name = text(model_name, "InferenceRequest: model_name")
        subject = f"for request with id '{request_id}' and model name '{model_name}' should not be empty."
        self._inputs = list(inputs)
        if None in self._inputs:
            raise TritonModelException(f"Input tensor {subject}")
        if not all(isinstance(tensor, Tensor) for tensor in self._inputs):
            raise TypeError("InferenceRequest: inputs must be Tensors")
        names = [text(name, "InferenceRequest: requested_output_names") for name in requested_output_names]
        if "" in names:
            raise TritonModelException(f"Requested output name {subject}")
        self._head = Infer(
            0,
            model_name,
            max(whole(model_version, "InferenceRequest: model_version"), 0),
            request_id,
            [],
            names,
            checked_parameters(parameters) if parameters is not None else {},
            timeout_us=whole(timeout, "InferenceRequest: timeout"),
            sequence_id=text(correlation_id, "") if isinstance(correlation_id, str) else int(correlation_id),
            traceparent=trace.traceparent if trace is not None else "",
        )
        self.set_flags(flags)
        self._wanted = frozenset(names)
        self._request: Request | None = None
        self._session: Session | None = None
        self._sender: InferenceResponseSender | None = None
        self._release = RELEASE_ALL

    @classmethod
    def received(cls, request: Request, session: Session) -> InferenceRequest:
        """A request that came to the model."""
        self = cls.__new__(cls)
        self._head = request.head
        self._inputs = [Tensor.received(tensor) for tensor in request.inputs]
        self._request = request
        self._session = session
        self._sender = None
        self._release = RELEASE_ALL
        self._wanted = frozenset(request.head.outputs) if request.head.outputs else session.outputs
        if session.is_decoupled:
            # From now on somebody answers, or fails the request by dropping it.
            self.get_response_sender()
        return self

    @property
    def is_rescheduled(self) -> bool:
        """Whether the model wants this request once more."""
        return bool(self._release & RELEASE_RESCHEDULE)

    @property
    def has_sender(self) -> bool:
        """Whether something else than `execute` may answer."""
        return self._sender is not None

    def reschedule(self) -> None:
        """Have the request come back to the model: what answers it further is a new one."""
        assert self._request is not None
        self._request.again = True
        if self._sender is not None:
            self._sender.close()

    def answer(self, response: InferenceResponse) -> Answer:
        """The one response that `execute` returned for this request. Raises `TritonModelException` after another."""
        if self._sender is not None:
            self._sender.replace(response)
        return response.answer(self._head.id, self._wanted, final=True)

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._head.request_id

    def correlation_id(self) -> int | str:
        return self._head.sequence_id

    def requested_output_names(self) -> set[str]:
        """What is to be answered; all outputs of the configuration where the client named none."""
        return set(self._wanted)

    def parameters(self) -> str:
        """The request's parameters as the text of a JSON object."""
        return json.dumps(self._head.parameters, separators=(",", ":"), ensure_ascii=False)

    def timeout(self) -> int:
        """In microseconds; 0 where there is none."""
        return self._head.timeout_us

    def priority(self) -> int:
        return self._head.priority

    def model_name(self) -> str:
        return self._head.model

    def model_version(self) -> int:
        return self._head.version or -1

    def trace(self) -> InferenceTrace:
        return InferenceTrace(self._head.traceparent)

    def flags(self) -> int:
        head = self._head
        return SEQUENCE_START * head.sequence_start | SEQUENCE_END * head.sequence_end

    def set_flags(self, flags: int) -> None:
        self._head.sequence_start = bool(flags & SEQUENCE_START)
        self._head.sequence_end = bool(flags & SEQUENCE_END)

    def set_release_flags(self, flags: int) -> None:
        """With `TRITONSERVER_REQUEST_RELEASE_RESCHEDULE` the request is executed again."""
        self._release = flags

    def is_cancelled(self) -> bool:
        """Whether whoever asked has left, as of now."""
        return self._request is not None and self._request.is_cancelled()

    def get_response_sender(self) -> InferenceResponseSender:
        """What sends this request's responses: the same at each call."""
        if self._sender is None:
            if self._request is None or self._session is None:
                raise TritonModelException("Only a request that came to the model has a response sender.")
            self._sender = InferenceResponseSender(self._session, self._request, self._wanted)
        return self._sender

    def exec(self, decoupled: bool = False) -> Any:
        """Ask the model and wait: its response, or an iterator over its responses with `decoupled`.

        Errors are responses (`has_error`). Any thread may call this.
        """
        return calls.ask(current(), self._head, self._inputs, decoupled=decoupled)

    def async_exec(self, decoupled: bool = False) -> asyncio.Future[Any]:
        """As `exec`, to be awaited in an event loop."""
        return calls.ask_async(current(), self._head, self._inputs, decoupled=decoupled)
