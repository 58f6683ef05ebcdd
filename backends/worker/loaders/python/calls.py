"""Questions of one model to another (business logic scripting): asked by threads and event loops, answered in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import msgspec

from backends import tensors
from backends.worker.exchange import Answer, Box, Exchange
from backends.worker.frames import heads
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.session import Session
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Infer, Respond


class ResponseIterator:
    """The responses of a decoupled model as they come, the last one included, which may be empty.

    They are kept, and can be iterated over again once all have come. Dropping it before that cancels the request.
    """

    def __init__(self, exchange: Exchange, box: SimpleQueue[Answer | None], asked: int) -> None:
        self._exchange = exchange
        self._box = box
        self._asked = asked
        self._come: list[InferenceResponse] = []
        self._next = 0
        self._is_complete = False

    def __iter__(self) -> ResponseIterator:
        if self._is_complete:
            self._next = 0
        return self

    def __next__(self) -> InferenceResponse:
        if self._next == len(self._come):
            if self._is_complete:
                raise StopIteration("Iteration is done for the responses.")
            respond, outputs = self._exchange.wait(self._box)
            self._is_complete = respond.final
            self._come.append(_response(respond, outputs))
        self._next += 1
        return self._come[self._next - 1]

    def cancel(self) -> None:
        """Want no more responses; what is on its way still comes, and the final one."""
        self._exchange.leave(self._asked)

    def __del__(self) -> None:
        if not self._is_complete:
            with contextlib.suppress(OSError):  # the host is gone
                self._exchange.leave(self._asked)


def ask(session: Session, question: Infer, inputs: Sequence[Tensor], *, decoupled: bool) -> Any:
    """Ask and wait: the response, or an iterator over them."""
    box: SimpleQueue[Answer | None] = SimpleQueue()
    exchange = session.exchange
    asked = _send(session, question, inputs, box, decoupled=decoupled)
    if decoupled:
        return ResponseIterator(exchange, box, asked)
    only = _Only()
    while not only.take(*exchange.wait(box)):
        pass
    return only.response()


def ask_async(session: Session, question: Infer, inputs: Sequence[Tensor], *, decoupled: bool) -> asyncio.Future[Any]:
    """Ask from a coroutine. With `decoupled` the iterator is there with the first response."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    exchange = session.exchange
    exchange.attend()
    courier = _Courier(loop, future, exchange, decoupled=decoupled)
    courier.id = _send(session, question, inputs, courier, decoupled=decoupled)
    return future


class _Only:
    """The one response of a model that is not decoupled; an empty final one may follow it."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: Answer | None = None

    def take(self, respond: Respond, outputs: Sequence[tensors.Tensor]) -> bool:
        """Whether this was the last one."""
        if self._found is None:
            self._found = respond, outputs
        return respond.final

    def response(self) -> InferenceResponse:
        assert self._found is not None
        return _response(*self._found)


class _Courier:
    """A box whose answers resolve a future of an event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
        exchange: Exchange,
        *,
        decoupled: bool,
    ) -> None:
        self._loop = loop
        self._future = future
        self._exchange = exchange
        self._only = _Only()
        self._rest: SimpleQueue[Answer | None] | None = SimpleQueue() if decoupled else None
        self.id = 0

    def put(self, answer: Answer | None, /) -> None:
        assert answer is not None
        if self._rest is not None:
            self._rest.put(answer)
            self._tell(self._begin)
        elif self._only.take(*answer):
            self._tell(self._resolve)

    def _tell(self, what: Callable[[], None]) -> None:
        # A loop that was closed meanwhile has nobody who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what)

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(self._only.response())

    def _begin(self) -> None:
        if not self._future.done():
            assert self._rest is not None
            self._future.set_result(ResponseIterator(self._exchange, self._rest, self.id))


def _send(session: Session, question: Infer, inputs: Sequence[Tensor], box: Box, *, decoupled: bool) -> int:
    """Send a copy of the question, which may be asked again, with its inputs."""
    wired = [tensor.wire() for tensor in inputs]
    infer = msgspec.structs.replace(question, inputs=heads(wired), parent=session.parent, single=not decoupled)
    return session.exchange.ask(infer, wired, box)


def _response(respond: Respond, outputs: Sequence[tensors.Tensor]) -> InferenceResponse:
    return InferenceResponse.received(respond, [Tensor.received(tensor) for tensor in outputs])
