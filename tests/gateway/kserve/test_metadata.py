"""Header blocks of calls, and the statuses that end them."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder

from gateway.kserve.call import Status
from gateway.kserve.headers import HeaderDecoder, HeaderError, encode
from gateway.kserve.metadata import read_head, refusal, trailers

CALL = [(":method", "POST"), (":path", "/s/M"), ("content-type", "application/grpc+proto"), ("te", "trailers")]


def _head(*extra: tuple[str, str]):
    return read_head([(name.encode(), value.encode()) for name, value in [*CALL, *extra]])


@pytest.mark.parametrize(
    ("text", "seconds"), [("2S", 2.0), ("1500m", 1.5), ("3M", 180.0), ("1H", 3600.0), ("5u", 5e-6), ("7n", 7e-9)]
)
def test_a_timeout_is_read_in_its_unit(text: str, seconds: float) -> None:
    assert _head(("grpc-timeout", text)).timeout_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "5", "5x", "-5S", "123456789S"])
def test_a_timeout_that_is_none_is_left_out(text: str) -> None:
    assert _head(("grpc-timeout", text)).timeout_seconds is None


def test_metadata_are_what_is_not_the_protocol_s() -> None:
    head = _head(("a", "1"), ("a", "2"), ("b-bin", "AA"), ("grpc-encoding", "gzip"))
    assert (head.path, head.metadata, head.encoding) == ("/s/M", {"a": "2"}, "gzip")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("identity", "identity"), ("identity,deflate", "deflate"), ("deflate, gzip, identity", "gzip")],
)
def test_answers_are_encoded_as_the_client_takes_them(accepted: str, encoding: str) -> None:
    assert _head(("grpc-accept-encoding", accepted)).answer_encoding == encoding


def test_a_status_s_text_is_percent_encoded() -> None:
    decoded = dict(Decoder().decode(trailers(Status.INTERNAL, "100% zwölf\n")))
    assert decoded == {"grpc-status": "13", "grpc-message": "100%25 zw%C3%B6lf%0A"}
    whole = dict(Decoder().decode(refusal(Status.NOT_FOUND, "no")))
    assert (whole[":status"], whole["grpc-status"], whole["grpc-message"]) == ("200", "5", "no")


def test_long_texts_are_encoded_with_their_lengths() -> None:
    for size in (126, 127, 128, 300, 20_000):
        assert Decoder(max_header_list_size=1 << 20).decode(encode([(b"n", b"v" * size)], 404)) == [
            (":status", "404"),
            ("n", "v" * size),
        ]


def test_a_block_that_comes_again_is_read_once_until_the_table_changes() -> None:
    read: list[int] = []
    decoder: HeaderDecoder[list[tuple[bytes, bytes]]] = HeaderDecoder(
        10_000, lambda headers: read.append(len(headers)) or headers
    )
    encoder = Encoder()
    first, again = encoder.encode(CALL), encoder.encode(CALL)
    for block in (first, again, again, again):
        assert decoder.decode(block) == [(name.encode(), value.encode()) for name, value in CALL]
    assert len(read) == 2
    other = encoder.encode([*CALL, ("new", "value")])
    assert decoder.decode(other)[-1] == (b"new", b"value")
    shifted = encoder.encode(CALL)
    assert shifted != again
    assert decoder.decode(shifted) == decoder.decode(shifted) == decoder.decode(encoder.encode(CALL))


def test_a_block_over_the_limit_or_of_no_sense_is_refused() -> None:
    decoder = HeaderDecoder(100, list)
    for block in (b"\xff\xff\xff\xff\xff", encode([(b"n", b"v" * 200)])):
        with pytest.raises(HeaderError):
            decoder.decode(block)


def test_a_block_that_sets_the_table_s_size_is_heard_each_time() -> None:
    decoder, encoder = HeaderDecoder(10_000, list), Encoder()
    for size in (0, 4096, 0, 4096):
        encoder.header_table_size = size
        assert decoder.decode(encoder.encode([(":method", "POST")])) == [(b":method", b"POST")]
    encoder.encode([("new", "value")])
    assert decoder.decode(Encoder().encode([("new", "value")])) == [(b"new", b"value")]
    assert decoder.decode(encoder.encode([("new", "value")])) == [(b"new", b"value")]
