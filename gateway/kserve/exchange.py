"""One gRPC call on its HTTP/2 stream: messages in and out, its task, its deadline, its status."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from time import monotonic
from typing import Any

from backends.errors import ServingError
from backends.tensors import Buffer
from gateway.kserve import http2_frames as h2
from gateway.kserve.call import Status, Stream, Unary, status_of
from gateway.kserve.headers import encode
from gateway.kserve.http2 import STREAM_WINDOW_BYTES, Connection
from gateway.kserve.metadata import OK_TRAILERS, RESPONSE_HEADS, Head, refusal, trailers
from gateway.kserve.packing import Deframer, MessageError, pack, pack_compressed
from gateway.kserve.services import Services

_log = logging.getLogger(__name__)

_ENDS = h2.END_HEADERS | h2.END_STREAM


class GrpcExchange:
    """A call: what a stream's bytes are handed to, and the `Call` that its RPC sees."""

    __slots__ = (
        "_connection", "_credit_bytes", "_deframer", "_encoding", "_is_finished", "_is_half_closed", "_is_head_sent",
        "_level", "_messages", "_reader", "_stream", "_task", "_timer", "_unary", "_writer", "deadline", "metadata",
        "window",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, stream: int, head: Head, decompressed_bytes: int, compression_level: int
    ) -> None:
        self.window = connection.initial_window
        self.metadata: Mapping[str, str] = head.metadata
        self.deadline: float | None = None
        self._connection = connection
        self._stream = stream
        self._encoding = head.answer_encoding if compression_level else "identity"
        self._level = compression_level
        self._deframer = Deframer(head.encoding, decompressed_bytes)
        self._messages: deque[Buffer] = deque()
        self._credit_bytes = 0
        self._unary: Unary | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_half_closed = self._is_head_sent = self._is_finished = False

    def begin(self, head: Head, services: Services) -> None:
        """Call what the head names; refuse what is not there."""
        if head.refusal:
            self._send_block(encode([], head.refusal))
            self._close()
            return
        if head.timeout_seconds is not None:
            self.deadline = monotonic() + head.timeout_seconds
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                head.timeout_seconds, self._end, Status.DEADLINE_EXCEEDED, "Deadline Exceeded"
            )
        if (unary := services.unary.get(head.path)) is not None:
            self._unary = unary  # its task begins once it is here as a whole
        elif (stream := services.streams.get(head.path)) is not None:
            self._start(self._converse(stream))
        else:
            self._end(Status.UNIMPLEMENTED, "")

    @property
    def client(self) -> str:
        return self._connection.client

    def interrupt(self, reason: str) -> None:
        """End the call, for the server's own reasons."""
        self._end(Status.UNAVAILABLE, reason)

    def received(self, data: Buffer, size_bytes: int) -> None:
        self._credit_bytes += size_bytes
        if self._credit_bytes > STREAM_WINDOW_BYTES:
            self._connection.forget(self._stream, code=h2.FLOW_CONTROL_ERROR)
            self.cancelled()
            return
        try:
            self._messages.extend(self._deframer.take(data))
        except MessageError as error:
            self._end(error.status, error.reason)
            return
        if self._unary is not None and len(self._messages) > 1:
            self._end(Status.UNIMPLEMENTED, "A unary call has one message.")
            return
        self._grant()
        self._wake_reader()

    def half_closed(self) -> None:
        self._is_half_closed = True
        if not self._deframer.is_between:
            self._end(Status.INTERNAL, "The last message is not whole.")
        elif self._unary is None:
            self._wake_reader()
        elif not self._messages:
            self._end(Status.UNIMPLEMENTED, "A unary call has one message.")
        elif not self._is_finished:
            self._start(self._answer(self._unary, self._messages.popleft()))

    def cancelled(self) -> None:
        self._is_finished = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def writable(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    async def read(self) -> Buffer | None:
        while not self._messages:
            if self._is_half_closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._messages.popleft()
        self._grant()
        return message

    async def write(self, parts: list[Buffer]) -> None:
        await self._send(parts, b"")

    async def _answer(self, rpc: Unary, body: Buffer) -> None:
        try:
            await self._send(await rpc(body, self), OK_TRAILERS)
            self._close()
        except ServingError as error:
            self._finish(status_of(error), error.message)
        except Exception:  # noqa: BLE001  # the top of a task
            self._break()

    async def _converse(self, rpc: Stream) -> None:
        try:
            await rpc(self)
            self._finish(Status.OK, "")
        except ServingError as error:
            self._finish(status_of(error), error.message)
        except Exception:  # noqa: BLE001  # the top of a task
            self._break()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._connection.busy += 1
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._done)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._connection.busy -= 1

    def _break(self) -> None:
        _log.exception("An RPC broke")
        self._finish(Status.INTERNAL, "The gateway failed to serve this call.")

    def _grant(self) -> None:
        """Let the client send more, unless there is something that was not read."""
        if self._credit_bytes >= STREAM_WINDOW_BYTES // 2 and not self._messages and not self._is_half_closed:
            self._connection.grant(self._stream, self._credit_bytes)
            self._credit_bytes = 0

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _send(self, parts: list[Buffer], last: bytes) -> None:
        """Send a message, and after it the trailers where they are given."""
        if self._is_finished:
            await asyncio.sleep(0)  # a model that never pauses is cancelled here, and not left to keep the loop
            return
        packed = pack(parts) if self._encoding == "identity" else pack_compressed(parts, self._encoding, self._level)
        connection, stream = self._connection, self._stream
        size = sum(map(len, packed))
        before = after = b""
        if not self._is_head_sent:
            self._is_head_sent = True
            block = RESPONSE_HEADS[self._encoding]
            before = h2.head(len(block), h2.HEADERS, h2.END_HEADERS, stream) + block
        if last:
            after = h2.head(len(last), h2.HEADERS, _ENDS, stream) + last
        room = min(self.window, connection.window, connection.peer_frame_bytes)
        if size <= room and not connection.is_paused:
            self.window -= size
            connection.window -= size
            connection.send(b"".join([before, h2.head(size, h2.DATA, 0, stream), *packed, after]))
            return
        if before:
            connection.send(before)
        for part in packed:
            await self._send_slowly(memoryview(part))
        if after:
            connection.send(after)

    async def _send_slowly(self, data: memoryview) -> None:
        """Send bytes as there is room for them."""
        connection = self._connection
        position, end = 0, len(data)
        while position < end and not self._is_finished:
            size = min(end - position, self.window, connection.window, connection.peer_frame_bytes)
            if size <= 0 or connection.is_paused:
                self._writer = asyncio.get_running_loop().create_future()
                await self._writer
                continue
            self.window -= size
            connection.window -= size
            connection.send(h2.head(size, h2.DATA, 0, self._stream), data[position : position + size])
            position += size

    def _end(self, status: Status, details: str) -> None:
        """End the call whatever its task is at."""
        if not self._is_finished:
            self._finish(status, details)
            self.cancelled()

    def _finish(self, status: Status, details: str) -> None:
        if self._is_finished:
            return
        self._send_block(trailers(status, details) if self._is_head_sent else refusal(status, details))
        self._close()

    def _send_block(self, block: bytes) -> None:
        self._connection.send(h2.head(len(block), h2.HEADERS, _ENDS, self._stream) + block)

    def _close(self) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        if self._timer is not None:
            self._timer.cancel()
        self._connection.forget(self._stream, code=None if self._is_half_closed else h2.NO_ERROR)
