"""Faults on demand: their names, who asks for them, and what they do to an answer."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import NoReturn

import msgspec

from backends.simulator.http import Exchange

_SLOW_ITL_MS = 250.0


class Fault(StrEnum):
    """What may go wrong with a request. A status (`500`, `429`, any of 4xx and 5xx) is a fault too.

    At arrival: `refuse`, `exit` (unless `after` is given), the errors. In its slot: `hang-before-head`,
    `hang-before-first-token` (the head of a stream is sent), and after N tokens `hang`, `cut` (mid-chunk and
    mid-event, connection reset), `eof` (the body ends well, without `[DONE]`), `error-event`. In the layout of
    the stream: `split`, `crlf`, `keepalive-comments`. In the pace: `slow`.
    """

    NONE = "none"
    REFUSE = "refuse"
    EXIT = "exit"
    STATUS = "status"
    FLAT_ERROR = "flat-error"
    STRING_ERROR = "string-error"
    TEXT_ERROR = "text-error"
    HANG_BEFORE_HEAD = "hang-before-head"
    HANG_BEFORE_FIRST_TOKEN = "hang-before-first-token"  # noqa: S105  # no password
    HANG = "hang"
    CUT = "cut"
    EOF = "eof"
    ERROR_EVENT = "error-event"
    SPLIT = "split"
    CRLF = "crlf"
    KEEPALIVE_COMMENTS = "keepalive-comments"
    SLOW = "slow"

    @classmethod
    def parse(cls, name: str) -> tuple[Fault, int]:
        """The fault of that name and its status (0 without one). Raises `ValueError`."""
        if len(name) == 3 and name.isdigit() and name[0] in "45":
            return cls.STATUS, int(name)
        try:
            fault = cls(name)
        except ValueError:
            fault = cls.STATUS
        if fault is cls.STATUS:
            known = ", ".join(fault.value for fault in cls if fault is not cls.STATUS)
            raise ValueError(f"`fault` is {name!r}: it must be a status from 400 to 599 or one of {known}")
        return fault, 0


_STRIKES_AFTER = {
    Fault.HANG_BEFORE_HEAD: 0,
    Fault.HANG_BEFORE_FIRST_TOKEN: 0,
    Fault.HANG: 1,
    Fault.CUT: 1,
    Fault.EOF: 1,
    Fault.ERROR_EVENT: 1,
}


class Behaviour(msgspec.Struct, kw_only=True):
    """How one request is treated: the simulator's options, changed by the request's header and body."""

    fault: Fault = Fault.NONE
    status: int = 0
    after: int = -1
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    tokens: int = 0
    retry_after: float = 1.0

    def strike_at(self) -> int:
        """The number of tokens after which the fault strikes; -1: it does not strike in mid-answer."""
        if self.fault is Fault.EXIT:
            return self.after
        if self.fault in (Fault.HANG_BEFORE_HEAD, Fault.HANG_BEFORE_FIRST_TOKEN):
            return 0
        default = _STRIKES_AFTER.get(self.fault, -1)
        return default if default < 0 or self.after < 0 else self.after

    def itl_seconds(self) -> float:
        slow = self.fault is Fault.SLOW and not self.itl_ms
        return (_SLOW_ITL_MS if slow else self.itl_ms) / 1000


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The body field `echo` of a request: what it wants otherwise than the simulator's options have it."""

    fault: str | None = None
    after: int | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    tokens: int | None = None
    retry_after: float | None = None

    def over(self, behaviour: Behaviour) -> Behaviour:
        changed = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        if self.fault is not None:
            changed["fault"], changed["status"] = Fault.parse(self.fault)
        return msgspec.structs.replace(behaviour, **changed)


def parse_header(value: str) -> Wish:
    """The header `X-Echo-Fault: NAME[; after=N][; ttft_ms=X]…`. Raises `ValueError`."""
    name, *rest = (part.strip() for part in value.split(";"))
    pairs = dict(part.partition("=")[::2] for part in rest if part)
    return msgspec.convert({"fault": name, **pairs}, Wish, strict=False)


class RequestError(Exception):
    """The request is answered with an error in the shape of the API it came by."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.headers: tuple[tuple[str, str], ...] = ()


class Canned(Exception):
    """The request is answered with just these bytes."""

    def __init__(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.content_type = content_type


class Refused(Exception):
    """The connection is closed without an answer."""


class Broken(Exception):
    """The answer breaks off here, in the way of `fault`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


def arrive(behaviour: Behaviour) -> None:
    """The faults that strike before any work is done."""
    message = f"The fault {behaviour.fault.value!r} was asked for."
    match behaviour.fault:
        case Fault.REFUSE:
            raise Refused
        case Fault.EXIT if behaviour.after < 0:
            leave()
        case Fault.STATUS:
            error = RequestError(behaviour.status, f"The status {behaviour.status} was asked for.", "EchoFault")
            if behaviour.status in (429, 503):
                error.headers = (("retry-after", f"{behaviour.retry_after:g}"),)
            raise error
        case Fault.FLAT_ERROR:
            flat = {"object": "error", "message": message, "type": "EchoFault", "param": None, "code": 400}
            raise Canned(400, msgspec.json.encode(flat))
        case Fault.STRING_ERROR:
            raise Canned(400, msgspec.json.encode({"error": message}))
        case Fault.TEXT_ERROR:
            raise Canned(500, b"Internal Server Error", "text/plain; charset=utf-8")
        case _:
            return


def leave() -> NoReturn:
    """End the process as a crash would: nothing is flushed or closed."""
    os._exit(1)


async def break_off(exchange: Exchange, fault: Fault, error: bytes) -> None:
    """End an answer in the middle. `error` is the event that an `error-event` sends before `[DONE]`.

    A stream is cut inside an HTTP chunk and inside an event, or ended in order but too early; an answer in one
    piece is cut inside its body.
    """
    if not exchange.head_sent:
        exchange.open(200, (("content-length", "4096"), ("content-type", "application/json")))
        exchange.write(b'{"id":"cut')
    elif fault is Fault.CUT:
        exchange.write(b'100\r\ndata: {"id":"cut')
    elif fault is Fault.ERROR_EVENT:
        for event in (error, b"data: [DONE]\n\n"):
            exchange.write(b"%x\r\n%b\r\n" % (len(event), event))
        exchange.write(b"0\r\n\r\n")
        return
    else:
        exchange.write(b"0\r\n\r\n")
        return
    await exchange.settle()
    exchange.drop(reset=fault is Fault.CUT)
