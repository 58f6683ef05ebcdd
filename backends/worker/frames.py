"""Frames of a worker's links: a message of `messages.py` and the bytes of its tensors, received into one buffer.

A frame is two little-endian lengths (uint32 of the message, uint64 of the payload), the message in msgpack, and the
payload: the tensors' bytes, back to back. Sending hands buffers on as they are; receiving fills one new buffer a
payload, of which tensors are views: neither copies. That buffer is the receiver's own: a model may write into it.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterable, Sequence

import msgspec

from backends.tensors import Buffer, Tensor
from backends.worker.messages import Message, TensorHead

MAGIC = b"\x00TF1"
"""What a connection for frames to a host begins with; anything else there is HTTP."""

MESSAGE_LIMIT_BYTES = 256 * 1024 * 1024
PAYLOAD_LIMIT_BYTES = 64 * 1024 * 1024 * 1024

_LENGTHS = struct.Struct("<IQ")
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()
_SCRATCH_BYTES = 256 * 1024
_GATHERED_BYTES = 64 * 1024
_HUGE_BYTES = 4 * 1024 * 1024
# The kernel takes no more buffers in one call (IOV_MAX).
_MOST_BUFFERS = 1000


class FrameError(Exception):
    """What came is no frame: the other end is not ours, or not of this version."""


def heads(tensors: Iterable[Tensor]) -> list[TensorHead]:
    """The heads of tensors whose bytes follow in this order."""
    return [TensorHead(tensor.name, tensor.datatype, tensor.shape, tensor.size_bytes) for tensor in tensors]


def tensors(heads: Iterable[TensorHead], payload: memoryview, offset: int = 0) -> list[Tensor]:
    """The tensors of a message, as views of its payload from `offset` on. Raises `FrameError` past its end."""
    found = []
    for head in heads:
        end = offset + head.size_bytes
        found.append(Tensor(head.name, head.datatype, head.shape, payload[offset:end]))
        offset = end
    if offset > payload.nbytes:
        raise FrameError(f"tensors of {offset} bytes in a payload of {payload.nbytes}")
    return found


def pack(message: Message, tensors: Sequence[Tensor] = ()) -> list[Buffer]:
    """The frame as buffers to be written in this order; small ones are joined, large ones are the tensors' own."""
    body = _encoder.encode(message)
    if not tensors:
        return [_LENGTHS.pack(len(body), 0) + body]
    payload_bytes = 0
    data = []
    for tensor in tensors:
        payload_bytes += tensor.size_bytes
        data.append(tensor.data)
    head = _LENGTHS.pack(len(body), payload_bytes)
    if payload_bytes <= _GATHERED_BYTES:
        return [b"".join([head, body, *data])]
    return [head + body, *filter(len, data)]


def repack(message: Message, payload: memoryview) -> list[Buffer]:
    """As `pack`, for a message that goes on with the payload that it came with."""
    body = _encoder.encode(message)
    head = _LENGTHS.pack(len(body), payload.nbytes)
    if payload.nbytes <= _GATHERED_BYTES:
        return [b"".join((head, body, payload))]
    return [head + body, payload]


class FrameDecoder:
    """Frames out of a stream of bytes. Ask `buffer` where to receive, tell `received` how much came.

    Small frames share one scratch buffer and are copied out of it; a payload over its size is received where it stays.
    """

    __slots__ = ("_end", "_message", "_payload", "_payload_end", "_scratch", "_start", "_view")

    def __init__(self) -> None:
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._start = self._end = 0
        self._message: Message | None = None
        self._payload: memoryview | None = None
        self._payload_end = 0

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go."""
        if self._payload is not None:
            return self._payload[self._payload_end :]
        return self._view[self._end :]

    def received(self, size_bytes: int) -> list[tuple[Message, memoryview]]:
        """So many bytes came: the frames that they complete, each with its payload. Raises `FrameError`."""
        frames: list[tuple[Message, memoryview]] = []
        if self._payload is not None:
            self._payload_end += size_bytes
            if self._payload_end < self._payload.nbytes:
                return frames
            assert self._message is not None
            frames.append((self._message, self._payload))
            self._message = self._payload = None
            return frames
        self._end += size_bytes
        while self._take(frames):
            pass
        self._make_room()
        return frames

    def _take(self, frames: list[tuple[Message, memoryview]]) -> bool:
        """Take one frame out of the scratch buffer, or begin a large one. False: more bytes are needed."""
        start, end = self._start, self._end
        if end - start < _LENGTHS.size:
            return False
        message_bytes, payload_bytes = _LENGTHS.unpack_from(self._scratch, start)
        if message_bytes > MESSAGE_LIMIT_BYTES or payload_bytes > PAYLOAD_LIMIT_BYTES:
            raise FrameError(f"a frame of {message_bytes} and {payload_bytes} bytes is over the limits")
        body = start + _LENGTHS.size
        if end - body < message_bytes:
            self._reserve(_LENGTHS.size + message_bytes)
            return False
        payload = body + message_bytes
        present = end - payload
        if present < payload_bytes <= len(self._scratch) - _LENGTHS.size - message_bytes:
            return False  # it fits: `_make_room` moves it to the front if need be
        try:
            message = _decoder.decode(self._view[body:payload])
        except msgspec.DecodeError as error:
            raise FrameError(f"no message: {error}") from error
        if present >= payload_bytes:
            self._start = payload + payload_bytes
            frames.append((message, memoryview(bytearray(self._view[payload : self._start]))))
            return True
        whole = _room(payload_bytes)
        whole[:present] = self._view[payload:end]
        self._message, self._payload, self._payload_end = message, whole, present
        self._start = self._end = 0
        return False

    def _reserve(self, size_bytes: int) -> None:
        """Have a scratch buffer that a message of this size fits into."""
        if size_bytes > len(self._scratch):
            grown = bytearray(size_bytes + _SCRATCH_BYTES)
            kept = self._end - self._start
            grown[:kept] = self._view[self._start : self._end]
            self._scratch, self._view = grown, memoryview(grown)
            self._start, self._end = 0, kept

    def _make_room(self) -> None:
        """Keep the rest of a frame at the front, so that the whole of it fits."""
        kept = self._end - self._start
        if not kept:
            self._start = self._end = 0
        elif self._start:
            self._view[:kept] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, kept


def _room(size_bytes: int) -> memoryview:
    """Memory for a payload, given back with its last view.

    For 16 MB huge pages, where the kernel has them, take half of the time that memory of the heap takes.
    """
    if size_bytes < _HUGE_BYTES:
        return memoryview(bytearray(size_bytes))
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


class BlockingLink:
    """A connected stream socket whose owner waits for frames: an instance's end of its link."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = FrameDecoder()
        self._waiting: list[tuple[Message, memoryview]] = []

    def receive(self) -> tuple[Message, memoryview]:
        """The next message and its payload. Raises `EOFError` when the other end is gone, `FrameError`."""
        while not self._waiting:
            self._read(0)
        return self._waiting.pop()

    def poll(self) -> tuple[Message, memoryview] | None:
        """As `receive`, of what has come by now; None where no whole frame has."""
        while not self._waiting:
            try:
                self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        return self._waiting.pop()

    def send(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        """Send all of it. Callers take turns: two threads must not send at once. Raises `OSError`."""
        self.write(pack(message, tensors))

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Send frames that `pack` made, in one system call where the socket takes them. As `send` otherwise."""
        if len(buffers) == 1:
            sent = self._socket.send(buffers[0])
            if sent == len(buffers[0]):
                return
            rest = [memoryview(buffers[0])[sent:]]
        else:
            rest = [memoryview(buffer) for buffer in buffers]
        while rest:
            sent = self._socket.sendmsg(rest[:_MOST_BUFFERS])
            whole = 0
            while whole < len(rest) and sent >= rest[whole].nbytes:
                sent -= rest[whole].nbytes
                whole += 1
            del rest[:whole]
            if sent:
                rest[0] = rest[0][sent:]

    def _read(self, flags: int) -> None:
        try:
            size_bytes = self._socket.recv_into(self._decoder.buffer(), 0, flags)
        except ConnectionResetError:
            size_bytes = 0  # the other end left without having read everything
        if not size_bytes:
            raise EOFError
        self._waiting = self._decoder.received(size_bytes)
        self._waiting.reverse()
