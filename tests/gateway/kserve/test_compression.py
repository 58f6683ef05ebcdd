"""Compressed bodies are read within the limit, and answers compressed by what the client prefers."""

from __future__ import annotations

import gzip
import zlib

import pytest

from backends.errors import BodyTooLarge, Code, InferenceError
from gateway.kserve.compression import accepted, compress, decompress

BODY = b"tensors " * 100


@pytest.mark.parametrize(
    ("packed", "name"), [(gzip.compress(BODY), b"gzip"), (zlib.compress(BODY), b"deflate")], ids=["gzip", "deflate"]
)
def test_a_body_is_unpacked_up_to_the_limit(packed: bytes, name: bytes) -> None:
    assert decompress(packed, name, len(BODY)) == BODY
    with pytest.raises(BodyTooLarge, match="over the limit of 799 bytes"):
        decompress(packed, name, len(BODY) - 1)


def test_what_is_not_compressed_stays_the_same_object() -> None:
    assert decompress(BODY, b"identity", 1) is BODY


def test_nonsense_is_nothing_and_what_breaks_off_is_what_came() -> None:
    assert decompress(b"nonsense", b"gzip", 1000) == b""
    assert BODY.startswith(decompress(gzip.compress(BODY)[:-10], b"gzip", 1000))


def test_nothing_and_other_encodings_are_refused() -> None:
    with pytest.raises(InferenceError, match="nothing to be decompressed") as raised:
        decompress(b"", b"gzip", 1000)
    assert raised.value.status is Code.INVALID_ARG
    with pytest.raises(InferenceError, match="Unsupported compression type") as raised:
        decompress(BODY, b"br", 1000)
    assert raised.value.status is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (b"", b""),
        (b"br, *", b""),
        (b"gzip", b"gzip"),
        (b"deflate, gzip", b"deflate"),
        (b"gzip;q=0.5, deflate;q=0.9", b"deflate"),
        (b"identity;q=0.5, gzip;q=0.2", b""),
        (b"gzip;q=0", b""),
        (b"gzip;q=x", b""),
        (b"gzip;level=1", b"gzip"),
    ],
)
def test_the_heaviest_of_what_is_accepted_is_taken(header: bytes, chosen: bytes) -> None:
    assert accepted(header) == chosen


def test_what_is_compressed_is_read_by_others() -> None:
    parts: list[bytes | bytearray | memoryview] = [BODY, memoryview(BODY)]
    assert gzip.decompress(compress(parts, b"gzip")) == BODY * 2
    assert zlib.decompress(compress(parts, b"deflate")) == BODY * 2
