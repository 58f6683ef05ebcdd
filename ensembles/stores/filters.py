"""Filters of a vector store's search: OpenAI's comparisons on attributes, joined by `and` and `or`."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from backends.errors import InvalidRequest

Scalar = str | float | bool
_DEPTH_LIMIT = 16


class Comparison(msgspec.Struct, frozen=True):
    """`key` against `value`: a list for `in` and `nin`. A chunk without the key matches `ne` and `nin` alone.

    A value is compared with values of its own type: "1" is neither equal to 1 nor less. Strings are in the order of
    their code points, False comes before True.
    """

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str
    value: Scalar | list[Scalar]


class Compound(msgspec.Struct, frozen=True):
    type: Literal["and", "or"]
    filters: list[Comparison | Compound]


Filter = Comparison | Compound


def read(value: object, depth: int = 0) -> Filter:
    """A filter from decoded JSON. Raises `InvalidRequest` naming what is wrong."""
    if depth > _DEPTH_LIMIT:
        raise InvalidRequest(f"Filters may be nested {_DEPTH_LIMIT} deep.", param="filters")
    if not isinstance(value, dict):
        raise InvalidRequest("A filter must be an object.", param="filters")
    if value.get("type") in {"and", "or"}:
        members = value.get("filters")
        if not isinstance(members, list) or not members:
            raise InvalidRequest(f"A filter '{value['type']}' needs a list of 'filters'.", param="filters")
        return Compound(value["type"], [read(member, depth + 1) for member in members])
    return _comparison(value)


def _comparison(value: dict[str, Any]) -> Comparison:
    try:
        comparison = msgspec.convert(value, Comparison)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"A filter is wrong: {error}", param="filters") from error
    if (comparison.type in {"in", "nin"}) is not isinstance(comparison.value, list):
        kind = "a list" if comparison.type in {"in", "nin"} else "a string, a number or a boolean"
        raise InvalidRequest(f"A filter '{comparison.type}' needs {kind} as 'value'.", param="filters")
    values = comparison.value if isinstance(comparison.value, list) else [comparison.value]
    try:
        msgspec.json.encode(comparison)
    except UnicodeEncodeError as error:
        raise InvalidRequest("A filter's texts must be valid Unicode.", param="filters") from error
    if any(isinstance(member, float) and not math.isfinite(member) for member in values):
        raise InvalidRequest("A filter's numbers must be finite.", param="filters")
    return comparison
