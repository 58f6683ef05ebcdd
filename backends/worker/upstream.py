"""A server process's connection to a worker's host: kept open, shared by all requests, told who reads too slowly."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from backends.errors import Code, InferenceError, ServingError
from backends.model import InferRequest, InferResponse, Models
from backends.statistics import ModelStatistics
from backends.tensors import Tensor
from backends.worker.answering import Answering, Origin
from backends.worker.frames import MAGIC, tensors
from backends.worker.link import Link
from backends.worker.messages import Ask, Cancel, Control, Infer, Message, Pace, Respond, Status, Told

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5
# What may wait for a reader before those who answer it are told to wait.
_MOST_WAITING = 64
_MOST_WAITING_BYTES = 4 * 1024 * 1024

_CODES = {code.value: code for code in Code}


class HostResponses:
    """The answers to one request. `size_bytes` is what waits to be read."""

    __slots__ = (
        "_error",
        "_has_ended",
        "_id",
        "_is_paused",
        "_listener",
        "_queue",
        "_size_bytes",
        "_upstream",
        "_waiter",
        "origin",
    )

    def __init__(self, upstream: Upstream, id: int, origin: Origin) -> None:
        self.origin = origin
        self._upstream = upstream
        self._id = id
        self._queue: deque[tuple[InferResponse, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[InferResponse | ServingError], None] | None = None
        self._error: ServingError | None = None
        self._has_ended = False
        self._is_paused = False
        self._size_bytes = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> InferResponse:
        queue = self._queue
        if not queue:
            if self._error is not None:
                raise self._error
            if self._has_ended:
                raise StopAsyncIteration
            self._waiter = self._upstream.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            if not queue:
                return await self.__anext__()
        response, size_bytes = queue.popleft()
        self._size_bytes -= size_bytes
        if response.final:
            self._has_ended = True
        elif self._is_paused and len(queue) <= _MOST_WAITING // 2 and self._size_bytes <= _MOST_WAITING_BYTES // 2:
            self._is_paused = False
            self._upstream.tell(Pace(self._id, paused=False))
        return response

    async def aclose(self) -> None:
        self.leave()

    def leave(self) -> None:
        self._has_ended = True
        self._queue.clear()
        self._upstream.leave(self._id)

    def listen(self, listener: Callable[[InferResponse | ServingError], None]) -> None:
        self._listener = listener

    def put(self, respond: Respond, payload: memoryview) -> None:
        """An answer has come."""
        error = None
        if respond.error:
            error = InferenceError(respond.message, _CODES.get(respond.error, Code.INTERNAL))
        outputs = tensors(respond.outputs, payload) if respond.outputs else []
        response = InferResponse(outputs, respond.parameters, error, respond.final, respond.refused)
        if respond.times and self.origin.trace is not None:
            self.origin.trace.worked(*respond.times)
        if (listener := self._listener) is not None:
            self._listener = None
            listener(response)
            return
        self._queue.append((response, payload.nbytes))
        self._size_bytes += payload.nbytes
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif not (respond.final or self._is_paused) and (
            len(self._queue) > _MOST_WAITING or self._size_bytes > _MOST_WAITING_BYTES
        ):
            self._is_paused = True
            self._upstream.tell(Pace(self._id, paused=True))

    def fail(self, error: ServingError) -> None:
        """No answer will come any more."""
        self._error = error
        if (listener := self._listener) is not None:
            self._listener = None
            listener(error)
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Upstream:
    """One host. The connection is made again whenever it is lost, until `close`."""

    def __init__(self, address: str, name: str, models: Models, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.loop = loop
        self.requests: dict[int, HostResponses] = {}
        self.status: Status | None = None
        self._is_expected = False
        self._name = name
        self._path = address.removeprefix("unix:")
        self._answering = Answering(models, self.tell, self.requests)
        self._told: dict[int, asyncio.Future[ModelStatistics]] = {}
        self._next_id = 1
        self._link: Link | None = None
        self._unsent: list[tuple[Infer | Ask, Sequence[Tensor]]] = []
        self._has_failed = False
        self._is_closed = False
        self._wake = asyncio.Event()
        self._gone = asyncio.Event()
        self._task = loop.create_task(self._run())

    def expect(self, is_expected: bool) -> None:
        """Whether the supervisor says that the host is ready: believed until it turns out otherwise."""
        if is_expected and not self._is_expected:
            self._wake.set()
            if self.status is not None and not self.status.ready:
                self.status = None  # what it said was before what the supervisor saw
        self._is_expected = is_expected

    @property
    def is_ready(self) -> bool:
        """Whether the host can take a request, as far as is known here."""
        status = self.status
        return self._is_expected and not self._has_failed if status is None else status.ready

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    @property
    def reason(self) -> str:
        if self.status is not None:
            return self.status.reason
        return "its process cannot be reached" if self._has_failed else "its process is starting"

    def infer(self, infer: Infer, request: InferRequest) -> HostResponses:
        """Send a request under an id of this connection."""
        number = infer.id = self._next_id
        self._next_id = number + 1
        origin = Origin(request.deadline, request.traceparent, request.tenant, request.trace)
        responses = self.requests[number] = HostResponses(self, number, origin)
        self.send(infer, request.inputs)
        return responses

    def leave(self, id: int) -> None:
        """Nobody wants the answers to this request any more; nothing happens where the final one came."""
        if self.requests.pop(id, None) is not None:
            self._unsent = [(message, inputs) for message, inputs in self._unsent if message.id != id]
            self.tell(Cancel(id))
            self._close_if_done()

    async def statistics(self) -> ModelStatistics:
        """Ask the host. Raises `ServingError` when it cannot be reached."""
        number = self._next_id
        self._next_id += 1
        told: asyncio.Future[ModelStatistics] = self.loop.create_future()
        self._told[number] = told
        self.send(Ask(number, "statistics"))
        try:
            return await told
        finally:
            self._told.pop(number, None)

    def send(self, message: Infer | Ask, tensors: Sequence[Tensor] = ()) -> None:
        """Send, once there is a connection."""
        link = self._link
        if link is not None:
            link.send(message, tensors)
        else:
            self._unsent.append((message, tensors))
            self._wake.set()
            if self._task.done():  # it was closed, and whoever holds the model still uses it
                self._task = self.loop.create_task(self._run())

    def tell(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        """Send what nobody waits for any more where the connection is lost."""
        if self._link is not None:
            self._link.send(message, tensors)

    def close(self) -> None:
        """Take no new work, end when what is under way has ended."""
        self._is_closed = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_closed and not self.requests and not self._unsent:
            self._task.cancel()
            if self._link is not None:
                self._link.close()

    async def _run(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                _, link = await self.loop.create_unix_connection(lambda: Link(self), self._path)
            except OSError as error:
                self._has_failed = self._has_failed or self._is_expected
                text = f"The model '{self._name}' cannot be reached: {error.strerror or error}."
                self._fail(InferenceError(text, Code.UNAVAILABLE))
                if self._is_closed:
                    return
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_seconds):
                        await self._wake.wait()
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
                continue
            pause_seconds = _FIRST_PAUSE_SECONDS
            link.transport.write(MAGIC)
            self._link = link
            for message, inputs in self._unsent:
                link.send(message, inputs)
            self._unsent.clear()
            await self._gone.wait()
            self._gone.clear()
            await asyncio.sleep(pause_seconds)  # it may be one that takes connections and leaves at once

    def _fail(self, error: ServingError) -> None:
        """Whatever was under way comes to nothing."""
        self._unsent.clear()
        requests, told = list(self.requests.values()), list(self._told.values())
        self.requests.clear()
        self._told.clear()
        for responses in requests:
            responses.fail(error)
        for future in told:
            if not future.done():
                future.set_exception(error)

    # the link's owner

    def received(self, message: Message, payload: memoryview) -> None:
        if type(message) is Respond:
            requests = self.requests
            responses = requests.pop(message.id, None) if message.final else requests.get(message.id)
            if responses is not None:
                responses.put(message, payload)
                if self._is_closed and message.final:
                    self._close_if_done()
        elif type(message) is Status:
            self.status = message
            self._has_failed = False
        elif type(message) is Told:
            told = self._told.pop(message.id, None)
            if told is not None and not told.done():
                told.set_result(message.statistics)
        elif type(message) is Infer or type(message) is Control:
            self._answering.begin(message, payload)
        elif type(message) is Cancel:
            self._answering.cancel(message.id)
        elif type(message) is Pace:
            self._answering.pace(message.id, is_paused=message.paused)

    def lost(self, reason: str) -> None:
        self._link = self.status = None
        self._has_failed = not self._is_closed
        self._answering.end()
        self._fail(InferenceError(f"The model '{self._name}' lost its process: {reason}.", Code.UNAVAILABLE))
        self._gone.set()

    def paused(self, is_paused: bool) -> None:
        self._answering.pace_all(is_paused=is_paused)
