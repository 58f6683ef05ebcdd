"""Bodies that are compressed: gzip and deflate (RFC 9110 §8.4.1), both ways, within the limit for bodies."""

from __future__ import annotations

import zlib

from backends.errors import BodyTooLarge, Code, InferenceError

_EITHER = zlib.MAX_WBITS | 32  # gzip's header or zlib's, whichever is there
_GZIP = zlib.MAX_WBITS | 16
_LEVEL = 1  # JSON of numbers hardly gets smaller for more


def decompress(body: bytes | bytearray, encoding: bytes, limit_bytes: int) -> bytes | bytearray:
    """A body without its `Content-Encoding`; of one that breaks off, or is nothing of the kind, what can be read.

    Raises `InferenceError` for other encodings, `BodyTooLarge` before more than the limit is written.
    """
    if encoding == b"identity":
        return body
    if encoding not in {b"gzip", b"deflate"}:
        raise InferenceError("Unsupported compression type", Code.UNSUPPORTED)
    if not body:
        raise InferenceError("nothing to be decompressed", Code.INVALID_ARG)
    stream = zlib.decompressobj(_EITHER)
    try:
        plain = stream.decompress(body, limit_bytes)
    except zlib.error:
        return b""
    if stream.unconsumed_tail and stream.decompress(stream.unconsumed_tail, 1):
        raise BodyTooLarge(f"The request body is over the limit of {limit_bytes} bytes.")
    return plain


def accepted(header: bytes) -> bytes:
    """What an answer is compressed with for this `Accept-Encoding`; empty for nothing."""
    best, best_weight = b"", 0.0
    for item in header.split(b","):
        name, _, parameter = item.strip().partition(b";")
        weight = _weight(parameter)
        if name.strip() in {b"gzip", b"deflate", b"identity"} and weight > best_weight:
            best, best_weight = name.strip(), weight
    return b"" if best == b"identity" else best


def compress(parts: list[bytes | bytearray | memoryview], encoding: bytes) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if encoding == b"gzip" else zlib.MAX_WBITS)
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])


def _weight(parameter: bytes) -> float:
    name, _, value = parameter.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
