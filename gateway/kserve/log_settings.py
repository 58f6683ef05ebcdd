"""Triton's logging extension: what a running server logs, told and changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from backends.errors import Code, InferenceError
from gateway.kserve.members import as_boolean, as_string, as_unsigned

_FORMATS = ("default", "ISO8601")
_VERBOSE_BITS = 32


class LogSettings(msgspec.Struct):
    """`log_verbose_level` above 0 also logs what is of interest to who looks for a fault."""

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"

    @classmethod
    def of(cls, level: str, file: Path | None) -> LogSettings:
        """Those of a server that was started with this `--log-level` and `--log-file`."""
        return cls(
            log_file=str(file or ""),
            log_info=level in {"debug", "info"},
            log_warning=level != "error",
            log_verbose_level=int(level == "debug"),
        )

    def level(self) -> int:
        """The least that is logged, as `logging` counts it."""
        if self.log_verbose_level > 0:
            return logging.DEBUG
        if self.log_info:
            return logging.INFO
        if self.log_warning:
            return logging.WARNING
        return logging.ERROR if self.log_error else logging.CRITICAL


def apply(settings: LogSettings, wanted: Any) -> None:
    """Take over what a decoded JSON object wants changed, in Triton's order. Raises `InferenceError`."""
    given = {key: value for key, value in wanted.items() if value is not None} if isinstance(wanted, dict) else {}
    if isinstance(wanted, dict) and "log_file" in wanted:
        raise InferenceError("log file location can not be updated through network protocol", Code.UNSUPPORTED)
    read: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("log_info", as_boolean),
        ("log_warning", as_boolean),
        ("log_error", as_boolean),
        ("log_verbose_level", as_unsigned),
        ("log_format", as_string),
    )
    values = {key: take(given[key]) for key, take in read if key in given}
    if "log_verbose_level" in values:
        level = values["log_verbose_level"] & (1 << _VERBOSE_BITS) - 1
        values["log_verbose_level"] = level if level < 1 << _VERBOSE_BITS - 1 else 0  # it is signed
    if values.get("log_format", "default") not in _FORMATS:
        raise InferenceError(f"invalid argument for --log_format, got: {values['log_format']}", Code.UNAVAILABLE)
    for key, value in values.items():
        setattr(settings, key, value)
