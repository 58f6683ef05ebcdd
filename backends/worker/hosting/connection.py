"""A connection to a worker's host: frames of a server process, or HTTP of whoever asks after its health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from backends.errors import Code
from backends.statistics import ModelStatistics
from backends.tensors import Buffer
from backends.worker.frames import MAGIC
from backends.worker.hosting.calls import Call, Calls
from backends.worker.hosting.executor import Executor, Request
from backends.worker.link import Link
from backends.worker.messages import Ask, Cancel, Infer, Message, Pace, Respond, Status, Told

_HEAD_LIMIT_BYTES = 16 * 1024

Answer = tuple[int, bytes]
"""A status and a body of JSON."""


class Desk:
    """What connections need of the host they are to."""

    def __init__(self, answer: Callable[[str], Answer], statistics: Callable[[], ModelStatistics]) -> None:
        self.answer = answer
        """The answer to a GET of this path."""
        self.statistics = statistics
        self.connections: list[Connection] = []
        self.calls = Calls(self.connections)
        self.executor: Executor | None = None
        self.status = Status(ready=False, alive=0)

    def announce(self, status: Status) -> None:
        """Tell everybody, where it is news."""
        if status != self.status:
            self.status = status
            for connection in self.connections:
                connection.link.send(status)


class Connection:
    """A server process, seen from the host. `requests` are its own, by its ids; `calls` are those it answers."""

    def __init__(self, desk: Desk) -> None:
        self.link = Link(self)
        self.requests: dict[int, Request] = {}
        self.calls: dict[int, Call] = {}
        self._desk = desk
        self._is_paused = False

    def open(self) -> None:
        self._desk.connections.append(self)
        self.link.send(self._desk.status)

    def answer(self, respond: Respond, payload: Buffer) -> None:
        self.link.send_on(respond, memoryview(payload))

    # the link's owner

    def received(self, message: Message, payload: memoryview) -> None:
        desk = self._desk
        executor = desk.executor
        if type(message) is Infer:
            if executor is None:
                text = f"the model '{message.model}' is not loaded"
                self.link.send(Respond(message.id, error=Code.UNAVAILABLE, message=text))
            else:
                executor.infer(self, message, payload)
        elif type(message) is Respond:
            desk.calls.answered(self, message, payload)
        elif type(message) is Ask:
            self.link.send(Told(message.id, desk.statistics()))
        elif type(message) is Cancel or type(message) is Pace:
            request = self.requests.get(message.id)
            if request is None or executor is None:
                return  # it has been answered meanwhile
            if isinstance(message, Cancel):
                executor.cancel(request)
            else:
                request.is_paused = message.paused
                executor.pace(request, message.paused or self._is_paused)

    def lost(self, reason: str) -> None:  # noqa: ARG002  # whatever it was, nobody waits here any more
        desk = self._desk
        if self in desk.connections:
            desk.connections.remove(self)
        desk.calls.left(self)
        if desk.executor is not None:
            for request in tuple(self.requests.values()):
                desk.executor.cancel(request)

    def paused(self, is_paused: bool) -> None:
        """It reads slower than is sent to it: those who send much to it wait."""
        self._is_paused = is_paused
        executor = self._desk.executor
        if executor is not None:
            for request in self.requests.values():
                executor.pace(request, is_paused or request.is_paused)


class Greeting(asyncio.Protocol):
    """A new connection, until its first bytes say what it is; HTTP/1.1 GET requests from then on where it is HTTP."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.startswith(MAGIC):
            self._become_link()
            return
        while b"\r\n\r\n" in self._data:
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            self._answer(head)
        if len(self._data) > _HEAD_LIMIT_BYTES:
            self._transport.abort()

    def _become_link(self) -> None:
        connection = Connection(self._desk)
        # What reads into a buffer of ours has to begin reading anew.
        self._transport.pause_reading()
        self._transport.set_protocol(connection.link)
        connection.link.connection_made(self._transport)
        connection.open()
        connection.link.feed(self._data[len(MAGIC) :])
        self._transport.resume_reading()

    def _answer(self, head: bytes) -> None:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        status, body = self._desk.answer(rest.partition(" ")[0]) if method == "GET" else (405, b"{}")
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
        fields = f"content-type: application/json\r\ncontent-length: {len(body)}"
        self._transport.write(f"{line}\r\n{fields}\r\n\r\n".encode() + body)
