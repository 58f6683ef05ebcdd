"""The errors of a `model.py`: those that it answers with, and those that it meets."""

from __future__ import annotations

from enum import Enum, IntEnum

from backends.errors import Code
from backends.worker.loaders.python.arguments import text


class ErrorCode(IntEnum):
    """`TritonError.INTERNAL` and its like, with Triton's numbers."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    __str__ = Enum.__str__
    __format__ = Enum.__format__


class TritonModelException(Exception):
    """The interface was used wrongly, or Triton could not do what was asked."""


class TritonError:
    """An error that stands in a response, with a code that becomes its status."""

    UNKNOWN = ErrorCode.UNKNOWN
    INTERNAL = ErrorCode.INTERNAL
    NOT_FOUND = ErrorCode.NOT_FOUND
    INVALID_ARG = ErrorCode.INVALID_ARG
    UNAVAILABLE = ErrorCode.UNAVAILABLE
    UNSUPPORTED = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS = ErrorCode.ALREADY_EXISTS
    CANCELLED = ErrorCode.CANCELLED

    __slots__ = ("_code", "_message")

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        self._message = text(message, "TritonError: message")
        self._code = ErrorCode(code)

    def message(self) -> str:
        return self._message

    def code(self) -> ErrorCode:
        return self._code


def status_of(code: ErrorCode) -> Code:
    return Code[code.name]
