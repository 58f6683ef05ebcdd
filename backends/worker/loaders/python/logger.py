"""Log lines of a model, in the form that Triton's own have."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from enum import Enum, IntEnum
from pathlib import Path


class LogLevel(IntEnum):
    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3

    __str__ = Enum.__str__
    __format__ = Enum.__format__


class Logger:
    """`Logger.log_info(message)` and its like write to the standard error; verbose lines are not written."""

    LogLevel = LogLevel
    INFO = LogLevel.INFO
    WARNING = LogLevel.WARNING
    ERROR = LogLevel.ERROR
    VERBOSE = LogLevel.VERBOSE

    @staticmethod
    def log(message: str | bytes, level: IntEnum = LogLevel.INFO) -> None:
        _write(message, level)

    @staticmethod
    def log_info(message: str | bytes) -> None:
        _write(message, LogLevel.INFO)

    @staticmethod
    def log_warn(message: str | bytes) -> None:
        _write(message, LogLevel.WARNING)

    @staticmethod
    def log_error(message: str | bytes) -> None:
        _write(message, LogLevel.ERROR)

    @staticmethod
    def log_verbose(message: str | bytes) -> None:
        _write(message, LogLevel.VERBOSE)


def _write(message: str | bytes, level: IntEnum) -> None:
    if level is LogLevel.VERBOSE:
        return
    frame = sys._getframe(2)  # noqa: SLF001 - the line that logs
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.gmtime(now))
    place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    text = json.dumps(message.decode() if isinstance(message, bytes) else message, ensure_ascii=False)
    line = f"{level.name[0]}{stamp}.{int(now % 1 * 1e6):06d} {os.getpid()} {place}] {text}\n"
    # Not by `sys.stderr`, which a model may have replaced or closed.
    with contextlib.suppress(OSError):
        os.write(2, line.encode(errors="backslashreplace"))
