"""Members of decoded JSON, taken for what they should be, with errors in the words of Triton's JSON reader."""

from __future__ import annotations

from typing import Any

from backends.errors import InferenceError


def present(value: object, name: str) -> bool:
    return isinstance(value, dict) and name in value


def member(value: Any, name: str, context: str = "") -> Any:
    """A member of an object. Raises `InferenceError`."""
    if not present(value, name):
        raise _fault(context, f"attempt to access non-existing object member '{name}'")
    return value[name]


def members(value: Any, context: str = "") -> dict[str, Any]:
    """An object. Raises `InferenceError`."""
    if not isinstance(value, dict):
        raise _fault(context, "attempt to get members for non-object")
    return value


def as_string(value: Any, context: str = "") -> str:
    """Raises `InferenceError`."""
    if not isinstance(value, str):
        raise _unlike(context, "string", "string")
    return value


def as_boolean(value: Any, context: str = "") -> bool:
    """Raises `InferenceError`."""
    if not isinstance(value, bool):
        raise _unlike(context, "boolean", "boolean")
    return value


def as_unsigned(value: Any, context: str = "") -> int:
    """A whole number of 64 bits. Raises `InferenceError`."""
    if not is_unsigned(value):
        raise _unlike(context, "unsigned-integer", "unsigned-integer")
    return int(value)


def as_array(value: Any, context: str = "") -> list[Any]:
    """Raises `InferenceError`."""
    if not isinstance(value, list):
        raise _unlike(context, "array", "array")
    return value


def is_unsigned(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _unlike(context: str, kind: str, wanted: str) -> InferenceError:
    return _fault(context, f"attempt to access JSON non-{kind} as {wanted}")


def _fault(context: str, what: str) -> InferenceError:
    return InferenceError(f"{context}: {what}" if context else what)
