"""Bodies of OpenAI requests as a tensor model reads them, and its refusals as OpenAI words them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from backends.errors import Code, InferenceError, InvalidRequest

Body = TypeVar("Body", bound=msgspec.Struct)


def decode(body: bytes, kind: type[Body]) -> Body:
    """The body, fields that are not looked at left out. Raises `InvalidRequest` that names the field at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.strip("`.") or None
        if param is None and "missing required field" in text:
            param = text.rpartition(" ")[2].strip("`")
            raise InvalidRequest(
                f"You must provide '{param}'.", param=param, code="missing_required_parameter"
            ) from error
        raise InvalidRequest(f"Invalid type for '{param}': {text}.", param=param, code="invalid_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error


@contextmanager
def failing_at(param: str) -> Iterator[None]:
    """What the model refuses is the request's fault, in this field."""
    try:
        yield
    except InferenceError as error:
        if error.status is Code.INVALID_ARG:
            raise InvalidRequest(error.message, param=param) from error
        raise
