"""Reading a request body: whole and bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from backends.errors import BodyTooLarge, InvalidRequest
from gateway.wire import Wire

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


_LARGE_BYTES = 1 << 18
_MOST_CLAIMED = 8
"""How many times as much as has come a client gets memory for by saying how much it will send."""


class ClientLeft(Exception):
    """The client closed the connection before its body was in."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """The request's body. Raises `BodyTooLarge`, `ClientLeft`, and `InvalidRequest` for a compressed one.

    It may raise before the body is in: the server goes on reading and throws the rest away, so that a client
    that writes everything before it reads still gets the answer and not a reset connection.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    encoding = headers.get(b"content-encoding", b"")
    if encoding.lower() not in {b"", b"identity"}:
        name = encoding.decode("latin-1")
        raise InvalidRequest(f"Content-Encoding {name!r} is not supported: send the body as it is.")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def gather(
    receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int, wire: Wire | None = None
) -> bytes | bytearray:
    """The request's body as it came. Raises `BodyTooLarge`, `ClientLeft`.

    One that says how long it is goes into a buffer of that length, once some of it has come, past ASGI with the
    client's `wire`.
    """
    declared = headers.get(b"content-length", b"0")
    expected = int(declared) if declared.isdigit() else 0
    if expected > limit_bytes:
        raise _too_large(limit_bytes)
    message = await receive()
    piece = _piece(message)
    if not message.get("more_body"):
        if len(piece) > limit_bytes:
            raise _too_large(limit_bytes)
        return piece
    body = bytearray()
    size = 0
    while True:
        end = size + len(piece)
        if end > limit_bytes:
            raise _too_large(limit_bytes)
        body[size:end] = piece
        size = end
        if not message.get("more_body"):
            return body
        if len(body) == size >= expected // _MOST_CLAIMED and expected - size > _LARGE_BYTES:
            body, came = bytearray(expected), body
            body[:size] = came
        if wire is not None and len(body) - size > _LARGE_BYTES:
            try:
                if await wire.fill(body, size):
                    return body
            except ConnectionResetError as error:
                raise ClientLeft from error
        message = await receive()
        piece = _piece(message)


def _piece(message: MutableMapping[str, Any]) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    return body


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is over the limit of {limit_bytes} bytes.")
