"""The connection to a client, as the hot path sees it: a way past ASGI for body bytes.

ASGI costs a coroutine, a dictionary and a dozen look-ups a message, and tells of a client's departure only to who
waits for it. Here a streamed chunk is one formatted write, and departure is a call.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
from collections.abc import Callable, Coroutine, Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from backends.model import Headers
from backends.tensors import Buffer
from gateway.upload import Upload

if TYPE_CHECKING:
    from gateway.protocol import WiredProtocol

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Coroutine[Any, Any, None]]

EXTENSION = "tritium.wire"
"""Where the ASGI scope's `extensions` hold the `Wire`."""

_LOOKOUT_SECONDS = 0.25
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Outbox:
    """What one turn of the event loop has to say to all clients, written at its end, one system call a client.

    uvloop writes at once: the head of an answer and its body would be two calls, and each stream's chunk would
    wake its client between the work for two others. Together they cost a tenth less and arrive no later.
    """

    __slots__ = ("_context", "_wires", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop  # asking for the running one would cost a system call (Python 3.11)
        self._wires: list[Wire] = []
        self._context = contextvars.Context()  # one for all turns: a copy each would be for nothing

    def add(self, wire: Wire) -> None:
        if not self._wires:
            self.loop.call_soon(self._flush, context=self._context)
        self._wires.append(wire)

    def _flush(self) -> None:
        wires = self._wires
        self._wires = []
        for wire in wires:
            wire.flush()


class _Nowhere(asyncio.Transport):
    """Where bytes for a client go that has left: a closed transport raises, which would end the turn of all others."""

    def write(self, data: Any) -> None:
        pass

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Wire(asyncio.Transport):
    """A client's transport. `paused`: it reads too slowly, see `drained`; `lost`: it is gone, see `on_lost`.

    `head_lines` go out with the next head, each a whole line with its end: uvicorn takes 1 µs for a field of its own.
    """

    __slots__ = (
        "_held_back",
        "_is_large",
        "_lookout",
        "_outbox",
        "_pending",
        "_trailers",
        "_transport",
        "_waiter",
        "cycle",
        "head_lines",
        "loop",
        "lost",
        "on_lost",
        "paused",
        "protocol",
    )

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        super().__init__()
        self.paused = False
        self.lost = False
        self.on_lost: Callable[[], None] | None = None
        self.head_lines = b""
        self.cycle: RequestResponseCycle | None = None
        """uvicorn's state of the request that is answered now."""
        self.protocol: WiredProtocol | None = None
        self._outbox = outbox
        self.loop = outbox.loop
        self._transport = transport
        self._pending: list[Buffer] = []
        self._is_large = False
        self._trailers = b""
        self._waiter: asyncio.Future[None] | None = None
        self._held_back = False
        self._lookout: asyncio.TimerHandle | None = None

    def bare(self) -> Wire:
        """Another wire over the same connection, before anything went over this one: it writes no chunks."""
        return _BareWire(self._transport, self._outbox)

    def chunk(self, data: bytes) -> None:
        """One chunk of a chunked body (RFC 9112 §7.1), between the head and the end, which go through ASGI."""
        pending = self._pending
        if not pending:
            self._outbox.add(self)
        pending.append(b"%x\r\n%b\r\n" % (len(data), data))

    def frame(self, data: bytes) -> bool:
        """One chunk that has its framing already; False, and it is not taken, while the client reads too slowly."""
        if self.paused:
            return False
        pending = self._pending
        if not pending:
            self._outbox.add(self)
        pending.append(data)
        return True

    def answer(self, status: int, lines: bytes, body: bytes, more: Sequence[Buffer] = ()) -> bool:
        """A whole answer past ASGI, written at once, with these lines in its head; its length and the date are added.

        `more` follows the body, each part written as it is, not copied: for what is large. False, and nothing is
        done, where uvicorn has to do more than write it. Two ASGI messages cost 4 µs.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_started or cycle.disconnected or not cycle.keep_alive or self.paused:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        ours = b"".join([b"%b: %b\r\n" % field for field in cycle.default_headers])
        head = STATUS_LINE[status], ours, self.head_lines, lines
        self.head_lines = b""
        size = len(body)
        if more:
            size += sum(map(len, more))
            self._is_large = True
        self._pending.append(b"%b%b%b%bcontent-length: %d\r\n\r\n%b" % (*head, size, body))
        self._pending.extend(more)
        self.flush()
        cycle.message_event.set()
        cycle.on_response()
        return True

    async def fill(self, body: bytearray, filled: int) -> bool:
        """Receive the rest of the body that is being read straight into the buffer, of which so much is there already.

        Called between two ASGI messages. False, and nothing is done, where more of it has come than that leaves. Raises
        `ConnectionResetError` when the client leaves. Cancelling it leaves the connection usable: the rest is read
        all the same.
        """
        cycle, protocol = self.cycle, self.protocol
        if cycle is None or protocol is None or not cycle.more_body or filled + len(cycle.body) >= len(body):
            return False
        end = filled + len(cycle.body)
        body[filled:end] = cycle.body
        cycle.body = bytearray()
        await Upload(protocol, self._transport, body, end).done
        return True

    def trailers(self, fields: Headers) -> None:
        """What the end of this answer is to carry (RFC 9112 §7.1.2), told before that end, which goes through ASGI."""
        self._trailers = b"".join(b"%b: %b\r\n" % field for field in fields)

    def flush(self) -> None:
        """Write what this turn brought."""
        pending = self._pending
        if pending:
            if self._is_large:
                self._is_large = False
                self._transport.writelines(pending)
            else:
                self._transport.write(pending[0] if len(pending) == 1 else b"".join(pending))
            pending.clear()

    async def drained(self) -> None:
        """Wait until the client has read most of what was written, or is gone."""
        while self.paused and not self.lost:
            self._waiter = self.loop.create_future()
            await self._waiter

    def flow(self, *, paused: bool) -> None:
        self.paused = paused
        self._wake()

    def lose(self) -> None:
        self.lost = True
        self.cycle = self.protocol = None
        self._transport = _Nowhere()
        self._wake()
        if self.on_lost is not None:
            self.on_lost()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Transport, as far as uvicorn uses it

    def write(self, data: Any) -> None:
        if self.head_lines:  # nothing is written before the head
            data = b"%b%b\r\n" % (data[:-2], self.head_lines)
            self.head_lines = b""
        if self._trailers and data.endswith(_LAST_CHUNK):
            data = b"%b%b\r\n" % (data[:-2], self._trailers)
            self._trailers = b""
        if not self._pending:
            self._outbox.add(self)
        self._pending.append(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Hold back a client that sends more than is wanted now: a large body, requests ahead of their turn."""
        self._held_back = True
        self._transport.pause_reading()
        if self._lookout is None:
            self._lookout = self.loop.call_later(_LOOKOUT_SECONDS, self._look_out)

    def resume_reading(self) -> None:
        self._held_back = False
        self._transport.resume_reading()

    def _look_out(self) -> None:
        """See a client leave from whom nothing is read: the event loop would not tell."""
        self._lookout = None
        if not self._held_back or self.lost:
            return
        poll = select.poll()
        poll.register(self.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self.abort()
        else:
            self._lookout = self.loop.call_later(_LOOKOUT_SECONDS, self._look_out)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class _BareWire(Wire):
    """The wire to a client of HTTP/1.0, which knows no chunks (RFC 9112 §6.1): the end of its connection ends a stream.

    uvicorn frames what has no length whatever the client's version: that is undone here.
    """

    __slots__ = ("_is_framed",)

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        super().__init__(transport, outbox)
        self._is_framed = False

    def chunk(self, data: bytes) -> None:
        super().write(data)

    def answer(self, status: int, lines: bytes, body: bytes, more: Sequence[Buffer] = ()) -> bool:  # noqa: ARG002
        return False

    def trailers(self, fields: Headers) -> None:
        pass

    def frame(self, data: bytes) -> bool:
        if self.paused:
            return False
        super().write(data[data.index(b"\r\n") + 2 : -2])
        return True

    def write(self, data: Any) -> None:
        if self._is_framed:
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size, 16)]
        elif data.endswith(_CHUNKED):
            self._is_framed = True
            data = data[: -len(_CHUNKED)] + b"\r\n"
        super().write(data)
