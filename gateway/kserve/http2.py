"""HTTP/2 (RFC 9113) as a gRPC server needs it, on an event loop: frames, flow control, streams; no priorities, no push.

Bytes of a message are handed on as they come, whatever frames they come in; what a turn of the loop has to send on a
connection leaves together. A client that breaks the protocol loses its connection, one that reads slowly is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from backends.tensors import Buffer
from gateway.kserve import http2_frames as h2
from gateway.kserve.headers import HeaderDecoder, HeaderError, Headers
from gateway.kserve.http2_frames import Http2Error
from gateway.kserve.http2_output import Output

STREAM_WINDOW_BYTES = 1 << 20
"""What a client may send on a stream before it is read."""

_CONNECTION_WINDOW_BYTES = 16 << 20
_DEFAULT_WINDOW_BYTES = 65_535
_LARGEST_WINDOW_BYTES = 2**31 - 1
_LARGEST_STREAM = 2**31 - 1
_DEFAULT_FRAME_BYTES = 16_384
_FRAME_BYTES = 1 << 20
_HEAD_LIMIT_BYTES = 32 * 1024
# Streams of one connection at a time, those that were reset and still come to their end included.
_MOST_STREAMS = 4096
_COPIED_BYTES = 8 * 1024
# Of answers to a client that asks without reading them.
_MOST_UNREAD_ANSWERS = 10_000
_HANDSHAKE_SECONDS = 20.0
_FAREWELL_SECONDS = 1.0


class Exchange(Protocol):
    """What a stream belongs to; it is told what comes, in order."""

    window: int
    """How many bytes the client takes on this stream now; the connection adds, whoever sends subtracts."""

    def received(self, data: Buffer, size_bytes: int) -> None:
        """Bytes of the body; `size_bytes` is what they take of the stream's window, which is for this to keep."""
        ...

    def half_closed(self) -> None:
        """The client has sent all."""
        ...

    def cancelled(self) -> None:
        """The stream is gone."""
        ...

    def writable(self) -> None:
        """More may be sent than before."""
        ...

    def interrupt(self, reason: str) -> None:
        """End it, for the server's own reasons."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection. `accept` makes the exchange of a new stream from what `read` made of its headers.

    `peers` are the server's connections: it is in there as long as it is open. `busy` counts the exchanges that have
    not come to their end: whoever makes one counts it. `window` is what the client takes now on all streams together,
    `initial_window` on each new one.
    """

    def __init__(
        self,
        accept: Callable[[Connection, int, Any], Exchange],
        read: Callable[[Headers], Any],
        peers: set[Connection],
    ) -> None:
        self.streams: dict[int, Exchange] = {}
        self.busy = 0
        self.window = self.initial_window = _DEFAULT_WINDOW_BYTES
        self.peer_frame_bytes = _DEFAULT_FRAME_BYTES
        self.is_paused = False
        self.is_lost = False
        self._accept = accept
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._output: Output
        self._decoder = HeaderDecoder(_HEAD_LIMIT_BYTES, read)
        self._rest = b""
        self._is_greeted = self._is_ended = False
        self._last_stream = 0
        self._goes_away = False
        self._block: tuple[int, int, bytes] | None = None
        self._data_left = 0
        self._data_stream = 0
        self._data_ends = False
        self._taken_bytes = 0
        self._unread_answers = 0
        self._handshake: asyncio.TimerHandle | None = None

    @property
    def client(self) -> str:
        return self._output.client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._output = Output(cast("asyncio.Transport", transport), self._loop)
        self._peers.add(self)
        self._handshake = self._loop.call_later(_HANDSHAKE_SECONDS, self._output.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self.is_lost = self._output.is_closed = True
        self._peers.discard(self)
        if self._handshake is not None:
            self._handshake.cancel()
        streams, self.streams = self.streams, {}
        for exchange in streams.values():
            exchange.cancelled()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._unread_answers = 0
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            position = self._greet(data) if not self._is_greeted else 0
            if self._is_greeted:
                position = self._take(data, position)
            if position < len(data):
                self._rest = data[position:]
        except Http2Error as error:
            self._end(error)

    def send(self, *buffers: Buffer) -> None:
        """Send whole frames, with what else is sent in this turn of the loop."""
        self._output.send(buffers)

    def forget(self, stream: int, *, code: int | None) -> None:
        """A stream has come to its end: both sides have sent all, or this side ends it with `code`."""
        if self.streams.pop(stream, None) is not None and code is not None:
            self.send(h2.rst_stream(stream, code))
        if self._goes_away and not self.streams:
            self.close()

    def grant(self, stream: int, size_bytes: int) -> None:
        """Let the client send so many bytes more on a stream."""
        self.send(h2.window_update(stream, size_bytes))

    def go_away(self) -> None:
        """Take no new streams; close once those that there are have come to their end."""
        if self._goes_away or self.is_lost:
            return
        self._goes_away = True
        self.send(h2.goaway(self._last_stream, h2.NO_ERROR))
        if not self.streams:
            self.close()

    def close(self) -> None:
        """Close once all is sent."""
        self._output.close()

    def abort(self) -> None:
        self._output.abort()

    def _greet(self, data: bytes) -> int:
        """The client's preface; ours goes out at once (RFC 9113 §3.4)."""
        if len(data) < len(h2.PREFACE):
            if not h2.PREFACE.startswith(data):
                raise Http2Error(h2.PROTOCOL_ERROR, "no HTTP/2")
            return 0
        if not data.startswith(h2.PREFACE):
            raise Http2Error(h2.PROTOCOL_ERROR, "no HTTP/2")
        self._is_greeted = True
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        self.send(
            h2.settings(
                {
                    h2.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                    h2.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                    h2.MAX_FRAME_SIZE: _FRAME_BYTES,
                    h2.MAX_HEADER_LIST_SIZE: _HEAD_LIMIT_BYTES,
                }
            ),
            h2.window_update(0, _CONNECTION_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES),
        )
        return len(h2.PREFACE)

    def _take(self, data: bytes, position: int) -> int:
        """Take the frames in `data`; where the first one begins that is not whole. Of DATA any part is taken."""
        end = len(data)
        while True:
            if self._data_left:
                size = min(self._data_left, end - position)
                if not size:
                    return position
                self._data_left -= size
                whole = data if size <= _COPIED_BYTES else memoryview(data)
                self._take_data(whole[position : position + size], size)
                position += size
            if end - position < h2.HEAD.size:
                return position
            high, low, kind, flags, stream = h2.HEAD.unpack_from(data, position)
            size = high << 16 | low
            stream &= _LARGEST_STREAM
            if self._block is not None and (kind != h2.CONTINUATION or stream != self._block[0]):
                raise Http2Error(h2.PROTOCOL_ERROR, "a header block was not gone on with")
            if kind == h2.DATA and not flags & h2.PADDED:
                position += h2.HEAD.size
                self._begin_data(size, flags, stream)
                continue
            if size > (_FRAME_BYTES if kind == h2.DATA else _HEAD_LIMIT_BYTES):
                raise Http2Error(h2.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            first = position + h2.HEAD.size
            if end - first < size:
                return position
            position = first + size
            self._take_frame(kind, flags, stream, data[first:position])

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Frames of other types than these are to be ignored (RFC 9113 §4.1); GOAWAY and PRIORITY say nothing to us."""
        match kind:
            case h2.HEADERS:
                self._take_headers(flags, stream, payload)
            case h2.WINDOW_UPDATE:
                self._take_window_update(stream, payload)
            case h2.PING:
                self._take_ping(flags, payload)
            case h2.RST_STREAM:
                self._take_rst_stream(stream, payload)
            case h2.SETTINGS:
                self._take_settings(flags, stream, payload)
            case h2.DATA:
                self._take_padded_data(flags, stream, payload)
            case h2.CONTINUATION:
                self._take_continuation(flags, stream, payload)
            case h2.PUSH_PROMISE:
                raise Http2Error(h2.PROTOCOL_ERROR, "a client cannot push")

    def _begin_data(self, size: int, flags: int, stream: int) -> None:
        if size > _FRAME_BYTES:
            raise Http2Error(h2.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        if not 0 < stream <= self._last_stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "data on a stream that was never opened")
        self._data_left, self._data_stream, self._data_ends = size, stream, bool(flags & h2.END_STREAM)
        if not size:
            self._take_data(b"", 0)

    def _take_data(self, data: Buffer, size_bytes: int) -> None:
        """Bytes of the frame that is being read; the end of the stream with its last ones."""
        self._taken_bytes += size_bytes
        if self._taken_bytes >= _CONNECTION_WINDOW_BYTES // 2:
            self.send(h2.window_update(0, self._taken_bytes))
            self._taken_bytes = 0
        exchange = self.streams.get(self._data_stream)
        if exchange is None:  # one that has ended here: the client did not know yet
            return
        if size_bytes:
            exchange.received(data, size_bytes)
        if self._data_ends and not self._data_left:
            exchange.half_closed()

    def _take_padded_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._begin_data(len(payload), flags, stream)
        if payload:
            self._data_left = 0
            self._take_data(h2.unpad(payload, flags), len(payload))

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream & 1:
            raise Http2Error(h2.PROTOCOL_ERROR, "a stream that is not the client's to open")
        block = h2.unpad(payload, flags)
        if flags & h2.PRIORITY_GIVEN:
            block = block[5:]
        if flags & h2.END_HEADERS:
            self._take_block(flags, stream, block)
        else:
            self._block = stream, flags, block

    def _take_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None:
            raise Http2Error(h2.PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, block = self._block
        block += payload
        if len(block) > _HEAD_LIMIT_BYTES or not payload:
            raise Http2Error(h2.ENHANCE_YOUR_CALM, "a header block over the limit")
        self._block = stream, first_flags, block
        if flags & h2.END_HEADERS:
            self._block = None
            self._take_block(first_flags, stream, block)

    def _take_block(self, flags: int, stream: int, block: bytes) -> None:
        try:
            head = self._decoder.decode(block)
        except HeaderError as error:
            raise Http2Error(h2.COMPRESSION_ERROR, str(error)) from error
        exchange = self.streams.get(stream)
        if stream > self._last_stream:
            self._last_stream = stream
            if self._goes_away:
                return
            if self.busy >= _MOST_STREAMS:
                self.send(h2.rst_stream(stream, h2.REFUSED_STREAM))
                return
            exchange = self.streams[stream] = self._accept(self, stream, head)
        elif exchange is None:  # trailers of one that has ended here
            return
        elif not flags & h2.END_STREAM:
            raise Http2Error(h2.PROTOCOL_ERROR, "a second head")
        if flags & h2.END_STREAM:
            exchange.half_closed()

    def _take_rst_stream(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "RST_STREAM of a wrong length")
        if not 0 < stream <= self._last_stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "the end of a stream that was never opened")
        exchange = self.streams.pop(stream, None)
        if exchange is not None:
            exchange.cancelled()
            self.forget(stream, code=None)

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "settings of a stream")
        if flags & h2.ACK:
            return
        for setting, value in h2.read_settings(payload):
            if setting == h2.INITIAL_WINDOW_SIZE:
                self._set_initial_window(value)
            elif setting == h2.MAX_FRAME_SIZE:
                if not _DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise Http2Error(h2.PROTOCOL_ERROR, f"frames of {value} bytes")
                self.peer_frame_bytes = value
        self._answer(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self._wake()

    def _set_initial_window(self, size_bytes: int) -> None:
        if size_bytes > _LARGEST_WINDOW_BYTES:
            raise Http2Error(h2.FLOW_CONTROL_ERROR, f"a window of {size_bytes} bytes")
        change = size_bytes - self.initial_window
        self.initial_window = size_bytes
        for exchange in self.streams.values():
            exchange.window += change

    def _take_ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "PING of a wrong length")
        if not flags & h2.ACK:
            self._answer(h2.frame(h2.PING, h2.ACK, 0, payload))

    def _take_window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")
        increment = h2.UINT32.unpack(payload)[0] & _LARGEST_WINDOW_BYTES
        if not stream:
            self.window += increment
            if not increment or self.window > _LARGEST_WINDOW_BYTES:
                raise Http2Error(h2.FLOW_CONTROL_ERROR, "a window out of bounds")
            self._wake()
            return
        if stream > self._last_stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "a window of a stream that was never opened")
        exchange = self.streams.get(stream)
        if exchange is not None:
            exchange.window += increment
            if not increment or exchange.window > _LARGEST_WINDOW_BYTES:
                self.forget(stream, code=h2.FLOW_CONTROL_ERROR)
                exchange.cancelled()
            else:
                exchange.writable()

    def _answer(self, answer: bytes) -> None:
        """Send what a client can ask for without end."""
        if self.is_paused:
            self._unread_answers += 1
        if self._unread_answers > _MOST_UNREAD_ANSWERS:
            raise Http2Error(h2.ENHANCE_YOUR_CALM, "answers are not read")
        self.send(answer)

    def _wake(self) -> None:
        for exchange in tuple(self.streams.values()):
            exchange.writable()

    def _end(self, error: Http2Error) -> None:
        self._is_ended = True
        if self._is_greeted:
            self.send(h2.goaway(self._last_stream, error.code, error.reason))
        self.close()
        self._loop.call_later(_FAREWELL_SECONDS, self._output.abort)  # it may not be read
