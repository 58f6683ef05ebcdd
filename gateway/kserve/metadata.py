"""What stands in gRPC's header blocks: the call's path, deadline, encodings and metadata; statuses on the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.kserve.call import Status
from gateway.kserve.headers import Headers, encode

_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_DIGITS = 8
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_ACCEPT = (b"grpc-accept-encoding", b"identity, deflate, gzip")

RESPONSE_HEADS = {
    encoding: encode([_CONTENT_TYPE, (b"grpc-encoding", encoding.encode()), _ACCEPT], 200)
    for encoding in ("deflate", "gzip")
} | {"identity": encode([_CONTENT_TYPE, _ACCEPT], 200)}
"""How an answer begins, by the encoding of its messages."""

OK_TRAILERS = encode([(b"grpc-status", b"0")])


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a call. `refusal` is the HTTP status of one that is no gRPC, 0 else.

    `answer_encoding` is the best that the client takes. `metadata` has the values that are text, of several of one name
    the last.
    """

    path: str
    timeout_seconds: float | None = None
    encoding: str = "identity"
    answer_encoding: str = "identity"
    metadata: Mapping[str, str] = field(default_factory=dict)
    refusal: int = 0


def read_head(headers: Headers) -> Head:
    """The head in a call's header block, or its trailers, which mean nothing here."""
    fields = dict(headers)
    if fields.get(b":method") != b"POST":
        return Head("", refusal=405)
    if not fields.get(b"content-type", b"").startswith(b"application/grpc"):
        return Head("", refusal=415)
    accepted = fields.get(b"grpc-accept-encoding", b"").decode("latin-1")
    return Head(
        fields.get(b":path", b"").decode("latin-1"),
        _timeout(fields.get(b"grpc-timeout")),
        fields.get(b"grpc-encoding", b"identity").decode("latin-1"),
        next((each for each in ("gzip", "deflate") if each in accepted), "identity"),
        {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name[:1] != b":" and name[-4:] != b"-bin" and name not in _OWN
        },
    )


def trailers(status: Status, details: str) -> bytes:
    """What ends a call whose head was sent."""
    return OK_TRAILERS if status == Status.OK else encode(_status(status, details))


def refusal(status: Status, details: str) -> bytes:
    """A whole answer without a message."""
    return encode([_CONTENT_TYPE, *_status(status, details)], 200)


_OWN = frozenset(
    {b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"accept-encoding"}
)


def _status(status: Status, details: str) -> list[tuple[bytes, bytes]]:
    return [(b"grpc-status", b"%d" % status), (b"grpc-message", _percent_encoded(details))]


def _percent_encoded(text: str) -> bytes:
    """As `grpc-message` wants it: UTF-8, with all that is no printable ASCII, and "%", escaped."""
    raw = text.encode("utf-8", "replace")
    if text.isascii() and text.isprintable() and "%" not in text:
        return raw
    return b"".join([b"%c" % each if 0x20 <= each < 0x7F and each != 0x25 else b"%%%02X" % each for each in raw])


def _timeout(value: bytes | None) -> float | None:
    if not value:
        return None
    digits, unit = value[:-1], value[-1:]
    if unit not in _SECONDS or not digits.isdigit() or len(digits) > _DIGITS:
        return None
    return int(digits) * _SECONDS[unit]
