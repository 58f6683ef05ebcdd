"""gRPC's messages out of bytes in whatever pieces."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.kserve.call import Status
from gateway.kserve.packing import Deframer, MessageError, pack, pack_compressed

MESSAGES = [b"", b"a", b"bc" * 100, b"d" * 100_000]


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=30))
def test_messages_come_whole_however_they_are_cut(sizes: list[int]) -> None:
    stream = b"".join(b"".join(pack([message])) for message in MESSAGES)
    deframer, found = Deframer("identity", 0), []
    for number in range(1000):
        size = sizes[number % len(sizes)]
        found += deframer.take(stream[:size])
        stream = stream[size:]
        if not stream:
            break
    while stream:
        found += deframer.take(stream[:40_000])
        stream = stream[40_000:]
    assert [bytes(message) for message in found] == MESSAGES
    assert deframer.is_between


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_is_compressed_comes_as_it_was(encoding: str) -> None:
    packed = b"".join(pack_compressed([b"some ", b"text" * 50], encoding, 6))
    assert len(packed) < 60
    (message,) = Deframer(encoding, 1000).take(packed)
    assert message == b"some " + b"text" * 50


def _framed(data: bytes, flag: int = 1) -> bytes:
    return bytes((flag,)) + len(data).to_bytes(4) + data


@pytest.mark.parametrize(
    ("encoding", "sent", "status", "words"),
    [
        ("identity", _framed(b"x", flag=2), Status.INTERNAL, "Bad gRPC message flags 2"),
        ("zstd", _framed(b"x"), Status.UNIMPLEMENTED, "'zstd' is unknown"),
        ("gzip", _framed(b"no gzip"), Status.INTERNAL, "could not be decompressed"),
        ("deflate", _framed(zlib.compress(b"y" * 99)[:-3]), Status.INTERNAL, "cut short"),
        ("deflate", _framed(zlib.compress(b"y" * 101)), Status.RESOURCE_EXHAUSTED, "larger than max"),
        ("identity", b"\0\x80\0\0\0", Status.RESOURCE_EXHAUSTED, "larger than max"),
    ],
)
def test_what_is_no_message_ends_the_call_with_its_status(
    encoding: str, sent: bytes, status: Status, words: str
) -> None:
    with pytest.raises(MessageError, match=words) as caught:
        Deframer(encoding, 100).take(sent)
    assert caught.value.status == status


def test_a_length_that_is_claimed_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        deframer = Deframer("identity", 0)
        assert deframer.take(b"\0\x7f\xff\xff\xffabc") == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
    assert not deframer.is_between


def test_a_flag_that_is_none_is_refused_before_its_message_comes() -> None:
    with pytest.raises(MessageError, match="Bad gRPC message flags 7"):
        Deframer("identity", 0).take(b"\7\0\0\0\x09")
