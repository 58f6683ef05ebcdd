"""JSON objects as structs: options whose every key is known and checked, bodies of requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from backends.errors import InvalidRequest

Options = TypeVar("Options", bound=msgspec.Struct)

# How msgspec says which field is missing, and where it is wrong.
_PLACE = re.compile(r"(?:missing required field `(?P<field>\w+)`)?(?: - at .*`\$\.?(?P<path>[^`]*)`)?$")


def read(values: Mapping[str, Any], kind: type[Options], where: str) -> Options:
    """The options as a struct. Raises `InvalidRequest` naming the key that is not one or has a wrong value.

    `where` says for people where they stand.
    """
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    for key in values:
        if key not in known:
            raise InvalidRequest(f"{where} has no option {key!r}; it has {', '.join(known)}.", param=key)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        key = path.strip("`.")
        raise InvalidRequest(f"{where}: the option {key!r} is wrong: {text}.", param=key) from error


def decode(body: bytes, kind: type[Options], what: str) -> Options:
    """A request's body as a struct. Raises `InvalidRequest` naming the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = _PLACE.search(str(error))
        param = ".".join(filter(None, place.group("path", "field"))) if place else ""
        code = "missing_required_parameter" if place and place["field"] else None
        raise InvalidRequest(f"{what} is wrong: {error}.", param=param or None, code=code) from error
