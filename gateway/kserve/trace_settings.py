"""Triton's trace extension: which requests are traced, for all models and for single ones, told and changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from backends.errors import Code, InferenceError
from gateway.kserve.members import as_array, as_string
from gateway.kserve.shared_state import SharedState

_NUMBER = re.compile(r"\s*([+-]?\d+)")
_HIGHEST_UNSIGNED = (1 << 32) - 1
_HIGHEST = (1 << 31) - 1
_LEVELS = ("TIMESTAMPS", "TENSORS")

_DEFAULTS: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}


def settings_of(state: SharedState, model: str = "") -> dict[str, Any]:
    """The settings of a model, of the server without one."""
    traces = state.read().traces
    return {**_DEFAULTS, **state.traces, **traces.get("", {}), **traces.get(model, {})}


def apply(state: SharedState, model: str, wanted: Any) -> None:
    """Take over what a decoded JSON object wants changed; null is the default again. Raises `InferenceError`.

    Levels that are not known change nothing, as in Triton.
    """
    if not isinstance(wanted, dict):
        return
    if "trace_file" in wanted:
        raise InferenceError("trace file location can not be updated through network protocol", Code.UNSUPPORTED)
    changed = {
        name: None if wanted[name] is None else read(name, wanted[name])
        for name, read in _READ.items()
        if name in wanted
    }
    if changed.get("trace_level") == []:
        del changed["trace_level"]
    _check_traceable({**settings_of(state, model), **changed})
    with state.changing() as document:
        own = document.traces.setdefault(model, {})
        for name, value in changed.items():
            if value is None:
                own.pop(name, None)
            else:
                own[name] = value


def _check_traceable(settings: Mapping[str, Any]) -> None:
    """Raises `InferenceError` for settings by which nothing can be traced."""
    lacking = ""
    if (settings["trace_level"] or ["OFF"]) == ["OFF"]:
        return
    if settings["trace_rate"] == "0":
        lacking = "sample rate must be non-zero"
    elif not settings["trace_file"]:
        lacking = "trace file name is not given"
    if lacking:
        raise InferenceError(f"Attempting to set invalid trace setting :{lacking}", Code.INVALID_ARG)


def _levels(_name: str, value: Any) -> list[str]:
    """The levels in Triton's order; none where it knows none of them."""
    given = as_array(value)
    levels = []
    for level in given:
        levels.append(as_string(level))
        if level == "OFF" and len(given) > 1:
            raise InferenceError("Expect only one trace level 'OFF' is specified", Code.INVALID_ARG)
    return levels if levels == ["OFF"] else [level for level in _LEVELS if level in levels]


def _rate(name: str, value: Any) -> str:
    return str(_number(name, value, f"[ 0, {_HIGHEST_UNSIGNED} ]") & _HIGHEST_UNSIGNED)


def _count(name: str, value: Any) -> str:
    number = _number(name, value, f"[ -1, {_HIGHEST} ]")
    if number < -1:
        raise InferenceError(f"Unable to parse '{name}'. Expecting value >= -1, got:{number}", Code.INVALID_ARG)
    return str(number)


def _number(name: str, value: Any, told: str) -> int:
    """A number of 32 bits with a sign, whatever range is `told` where it is none of these, as in Triton."""
    match = _NUMBER.match(as_string(value))
    if match is None:
        raise InferenceError(f"Unable to parse '{name}', got: {value}", Code.INVALID_ARG)
    number = int(match[1])
    if not -_HIGHEST - 1 <= number <= _HIGHEST:
        raise InferenceError(f"Unable to parse '{name}', value is out of range {told}, got: {value}", Code.INVALID_ARG)
    return number


_READ: dict[str, Callable[[str, Any], Any]] = {
    "trace_level": _levels,
    "trace_rate": _rate,
    "trace_count": _count,
    "log_frequency": _rate,
}
