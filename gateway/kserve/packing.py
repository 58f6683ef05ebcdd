"""gRPC's messages in a stream of bytes: a flag, a length and so many bytes each; compressed where the flag says so."""

from __future__ import annotations

import zlib

from backends.tensors import Buffer
from gateway.kserve.call import Status

_PREFIX_BYTES = 5
LARGEST_MESSAGE_BYTES = 2**31 - 1
_SMALL_BYTES = 32 * 1024
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""zlib's parameter by gRPC's name of an encoding; "deflate" is zlib's own format (RFC 1950)."""


class MessageError(Exception):
    """Bytes that are no message; `status` is what the call ends with."""

    def __init__(self, reason: str, status: Status = Status.INTERNAL) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Deframer:
    """Messages out of the bytes of one call. `decompressed_bytes` is the most that a compressed one may make."""

    __slots__ = ("_decompressed_bytes", "_encoding", "_flag", "_message", "_prefix", "_size_bytes")

    def __init__(self, encoding: str, decompressed_bytes: int) -> None:
        self._encoding = encoding
        self._decompressed_bytes = decompressed_bytes
        self._prefix = b""
        self._message: bytearray | None = None
        self._size_bytes = 0
        self._flag = 0

    @property
    def is_between(self) -> bool:
        """Whether no message has begun that is not whole."""
        return self._message is None and not self._prefix

    def take(self, data: Buffer) -> list[Buffer]:
        """The messages that these bytes complete. Raises `MessageError`.

        A large one is received into its place, which grows with what has come: a length is only a claim.
        """
        if self._message is None and not self._prefix and len(data) >= _PREFIX_BYTES:
            size = int.from_bytes(data[1:_PREFIX_BYTES])
            if len(data) == _PREFIX_BYTES + size:  # a message a frame, as is usual
                return [self._whole(data[0], data[_PREFIX_BYTES:])]
        found: list[Buffer] = []
        view = memoryview(data)
        while view.nbytes:
            if self._message is None:
                view = self._take_prefix(view)
                if self._message is None:
                    return found
            message = self._message
            taken = min(self._size_bytes - len(message), len(view))
            message += view[:taken]
            view = view[taken:]
            if len(message) == self._size_bytes:
                self._message = None
                found.append(self._whole(self._flag, message))
        return found

    def _take_prefix(self, view: memoryview) -> memoryview:
        missing = _PREFIX_BYTES - len(self._prefix)
        self._prefix += view[:missing]
        if len(self._prefix) == _PREFIX_BYTES:
            size = int.from_bytes(self._prefix[1:])
            if size > LARGEST_MESSAGE_BYTES:
                raise MessageError(
                    f"Received message larger than max ({size} vs. {LARGEST_MESSAGE_BYTES})", Status.RESOURCE_EXHAUSTED
                )
            self._flag = self._prefix[0]
            self._prefix = b""
            self._message, self._size_bytes = bytearray(), size
            if self._flag > 1:
                raise MessageError(f"Bad gRPC message flags {self._flag}")
        return view[missing:]

    def _whole(self, flag: int, message: Buffer) -> Buffer:
        if not flag:
            return message if len(message) > _SMALL_BYTES else bytes(message)
        if flag != 1:
            raise MessageError(f"Bad gRPC message flags {flag}")
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise MessageError(f"Compression algorithm '{self._encoding}' is unknown.", Status.UNIMPLEMENTED)
        inflater = zlib.decompressobj(bits)
        try:
            plain = inflater.decompress(message, self._decompressed_bytes)
        except zlib.error as error:
            raise MessageError(f"Message could not be decompressed: {error}") from error
        if inflater.unconsumed_tail:
            raise MessageError(
                f"Decompressed message larger than max ({self._decompressed_bytes})", Status.RESOURCE_EXHAUSTED
            )
        if not inflater.eof:
            raise MessageError("Message could not be decompressed: it is cut short")
        return plain


def pack(parts: list[Buffer]) -> list[Buffer]:
    """The message that these parts make, as it is."""
    if len(parts) == 1:
        return [b"\0" + len(parts[0]).to_bytes(4), parts[0]]
    return [b"\0" + sum(map(len, parts)).to_bytes(4), *parts]


def pack_compressed(parts: list[Buffer], encoding: str, level: int) -> list[Buffer]:
    """The same, compressed (zlib's levels)."""
    bits = _WINDOW_BITS[encoding]
    deflater = zlib.compressobj(level, wbits=bits)
    packed = b"".join([*(deflater.compress(part) for part in parts), deflater.flush()])
    return [b"\1" + len(packed).to_bytes(4), packed]
