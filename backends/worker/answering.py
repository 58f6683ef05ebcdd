"""Calls that a model makes to other models, answered in a server process through the models that it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from backends.errors import (
    Code,
    InferenceError,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    ServingError,
    Unavailable,
    UnsupportedOperation,
)
from backends.model import InferRequest, InferResponse, Models, Responses, TensorModel
from backends.signature import Signature
from backends.tensors import Tensor
from backends.trace import Trace
from backends.worker.frames import heads, tensors
from backends.worker.messages import Control, Infer, Message, Respond

_CODES = (
    (UnsupportedOperation, Code.UNSUPPORTED),
    (InvalidRequest, Code.INVALID_ARG),
    (ModelNotFound, Code.NOT_FOUND),
    (NotFound, Code.NOT_FOUND),
    (Unavailable, Code.UNAVAILABLE),
)

_NOT_READY = "Failed for execute the inference request. Model '{}' is not ready."
_DECOUPLED = (
    "Model {} is using the decoupled. The current BLS request call doesn't support models using the decoupled"
    " transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls for decoupled"
    " models.'"
)


class Send(Protocol):
    """Sends a message to the host."""

    def __call__(self, message: Message, tensors: Sequence[Tensor] = ()) -> None: ...


class Origin(NamedTuple):
    """What calls in the course of a request have from it."""

    deadline: float | None = None
    traceparent: str = ""
    tenant: str = ""
    trace: Trace | None = None


class Begun(Protocol):
    """A request of this process at a host."""

    origin: Origin


class Answering:
    """The calls of one host under way. `begun` are this process's own requests there, by the ids that it knows."""

    def __init__(self, models: Models, send: Send, begun: Mapping[int, Begun]) -> None:
        self._models = models
        self._send = send
        self._begun = begun
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._paces: dict[int, asyncio.Event] = {}
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._signatures: dict[str, tuple[TensorModel, Signature]] = {}

    @property
    def is_idle(self) -> bool:
        return not self._tasks

    def begin(self, question: Infer | Control, payload: memoryview) -> None:
        """Answer a call, in a task of its own."""
        number = question.id
        work = self._infer(question, payload) if isinstance(question, Infer) else self._control(question, payload)
        task = self._tasks[number] = asyncio.create_task(self._answer(number, work))
        task.add_done_callback(lambda _: self._forget(number))

    def cancel(self, id: int) -> None:
        """The model wants no more of a call."""
        task = self._tasks.get(id)
        if task is not None:
            task.cancel()

    def pace(self, id: int, *, is_paused: bool) -> None:
        """The model reads slower than answers to its call come, or does no more."""
        if id in self._tasks:
            event = self._paces.setdefault(id, asyncio.Event())
            _set(event, is_set=not is_paused)

    def pace_all(self, *, is_paused: bool) -> None:
        """The connection takes less than is sent, or does no more."""
        _set(self._may_write, is_set=not is_paused)

    def end(self) -> None:
        """The host is gone: nobody wants any answer."""
        for task in self._tasks.values():
            task.cancel()
        self._may_write.set()

    def _forget(self, id: int) -> None:
        self._tasks.pop(id, None)
        self._paces.pop(id, None)

    async def _answer(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ServingError as error:
            self._send(Respond(id, error=_code(error), message=error.message))
        except asyncio.CancelledError:
            self._send(Respond(id, error=Code.CANCELLED, message="the call was cancelled"))
            raise

    async def _infer(self, infer: Infer, payload: memoryview) -> None:
        try:
            signature, responses = self._begin(infer, payload)
        except ServingError as error:
            message = f"Model {infer.model} - Error when running inference: {error.message}"
            raise InferenceError(message, _code(error)) from error
        has_ended = False
        try:
            async for response in responses:
                if signature.reshapes_outputs:
                    signature.reshape_outputs(response.outputs)
                await self._room(infer.id)
                self._send(_respond(infer.id, response), response.outputs)
                has_ended = response.final
        finally:
            await responses.aclose()
        if not has_ended:
            self._send(Respond(infer.id))

    def _begin(self, infer: Infer, payload: memoryview) -> tuple[Signature, Responses]:
        """Ask the model. What is refused before it works on it is worded as Triton words it."""
        try:
            model = self._models.tensor(infer.model, max(infer.version, 0))
        except ServingError as error:
            raise InferenceError(_NOT_READY.format(infer.model), _code(error)) from error
        if not model.ready():
            raise InferenceError(_NOT_READY.format(infer.model), Code.UNAVAILABLE)
        if infer.single and model.config.model_transaction_policy.decoupled:
            raise InferenceError(_DECOUPLED.format(infer.model), Code.INVALID_ARG)
        request = self._request(infer, payload)
        signature = self._signature(infer.model, model)
        signature.admit(request)
        return signature, model.infer(request)

    def _request(self, infer: Infer, payload: memoryview) -> InferRequest:
        """What the model asks, on behalf of whoever asked the model."""
        begun = self._begun.get(infer.parent)
        origin = Origin() if begun is None else begun.origin
        return InferRequest(
            model=infer.model,
            inputs=tensors(infer.inputs, payload),
            version=max(infer.version, 0),
            id=infer.request_id,
            outputs=infer.outputs,
            parameters=infer.parameters,
            priority=infer.priority,
            timeout_us=infer.timeout_us,
            sequence_id=infer.sequence_id,
            sequence_start=infer.sequence_start,
            sequence_end=infer.sequence_end,
            deadline=origin.deadline,
            traceparent=infer.traceparent or origin.traceparent,
            tenant=origin.tenant,
        )

    def _signature(self, name: str, model: TensorModel) -> Signature:
        known = self._signatures.get(name)
        if known is None or known[0] is not model:
            known = self._signatures[name] = model, Signature(model.config)
        return known[1]

    async def _room(self, id: int) -> None:
        """Wait until an answer may be sent."""
        if not self._may_write.is_set():
            await self._may_write.wait()
        pace = self._paces.get(id)
        if pace is not None and not pace.is_set():
            await pace.wait()

    async def _control(self, control: Control, payload: memoryview) -> None:
        if control.what == "is_ready":
            self._send(Respond(control.id, parameters={"ready": self._is_ready(control)}))
            return
        models = self._models.control
        if models is None:
            raise InferenceError("models cannot be loaded or unloaded from within a model here", Code.UNSUPPORTED)
        if control.what == "load":
            files = {tensor.name: tensor.data for tensor in tensors(control.files, payload)}
            await models.load(control.model, control.config, files)
        else:
            await models.unload(control.model, unload_dependents=control.unload_dependents)
        self._send(Respond(control.id))

    def _is_ready(self, control: Control) -> bool:
        try:
            return self._models.tensor(control.model, max(control.version, 0)).ready()
        except ServingError:
            return False


def _respond(id: int, response: InferResponse) -> Respond:
    error = response.error
    if error is not None:
        return Respond(id, [], response.parameters, response.final, error.status, error.message)
    return Respond(id, heads(response.outputs), response.parameters, response.final)


def _code(error: ServingError) -> Code:
    if isinstance(error, InferenceError):
        return error.status
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def _set(event: asyncio.Event, *, is_set: bool) -> None:
    if is_set:
        event.set()
    else:
        event.clear()
