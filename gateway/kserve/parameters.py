"""Parameters of a request over HTTP: those that the protocol reserves, and those that are the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.errors import Code, InferenceError
from backends.model import InferRequest, Scalar, legible
from gateway.kserve.members import as_boolean, as_string, as_unsigned, is_unsigned

_CORRELATION_BYTES = 128


def apply_parameters(request: InferRequest, parameters: Mapping[str, Any]) -> bool:
    """Put each parameter where it belongs; whether all outputs are to be binary. Raises `InferenceError`."""
    all_binary = False
    for name, value in parameters.items():
        unable = f"Unable to parse '{name}'"
        if name == "sequence_id":
            request.sequence_id = _correlation(value, unable)
        elif name == "sequence_start":
            request.sequence_start = as_boolean(value, unable)
        elif name == "sequence_end":
            request.sequence_end = as_boolean(value, unable)
        elif name == "priority":
            request.priority = as_unsigned(value, unable)
        elif name == "timeout":
            request.timeout_us = as_unsigned(value, unable)
        elif name == "binary_data_output":
            all_binary = as_boolean(value, unable)
        elif name.startswith("triton_"):
            raise InferenceError(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
                Code.INVALID_ARG,
            )
        else:
            request.parameters[legible(name)] = own_parameter(name, value)
    return all_binary


def own_parameter(name: str, value: Any) -> Scalar:
    """The value of a parameter that is the model's; whole numbers beyond 64 bits are real ones.

    Raises `InferenceError` for what is no scalar.
    """
    if not isinstance(value, str | bool | int | float):
        raise InferenceError(
            f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'.", Code.INVALID_ARG
        )
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value)
    return value


def sequence_name(text: str) -> str:
    """A sequence's id that is a text. Raises `InferenceError` for one that is too long."""
    if len(text.encode("utf-8", "surrogatepass")) > _CORRELATION_BYTES:
        raise InferenceError(
            f"string correlation ID cannot be longer than {_CORRELATION_BYTES} characters", Code.UNSUPPORTED
        )
    return text


def _correlation(value: Any, unable: str) -> int | str:
    """A sequence's id: a number, or else a text."""
    if is_unsigned(value):
        return int(value)
    return legible(sequence_name(as_string(value, unable)))
