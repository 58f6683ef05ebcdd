"""Attributes and filters in PostgreSQL's `jsonb`; NUL, which that cannot hold, is U+FFFD."""

from __future__ import annotations

import json
from typing import Any

from ensembles.stores.filters import Comparison, Compound, Filter
from ensembles.stores.store import Attributes, Scalar

_OPERATORS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_TYPES = {"string": "text", "number": "float8", "boolean": "boolean"}


def matching(condition: Filter, arguments: list[object]) -> str:
    """A filter as SQL; keys and values go to the arguments."""
    if isinstance(condition, Compound):
        members = [matching(member, arguments) for member in condition.filters]
        return f"({f' {condition.type.upper()} '.join(members)})"
    return f"({_comparison(condition, arguments)})"


def _comparison(condition: Comparison, arguments: list[object]) -> str:
    key, value = condition.key, condition.value
    if condition.type in _OPERATORS and not isinstance(value, list):
        return _compared(key, _OPERATORS[condition.type], _kind(value), value, arguments)
    members: dict[str, list[Scalar]] = {}
    for member in value if isinstance(value, list) else [value]:
        members.setdefault(_kind(member), []).append(member)
    equals = [_compared(key, "= ANY", kind, of, arguments) for kind, of in members.items()]
    found = f"coalesce({' OR '.join(equals) or 'false'}, false)"
    return found if condition.type == "in" else f"NOT {found}"


def _compared(key: str, operator: str, kind: str, value: object, arguments: list[object]) -> str:
    """NULL where the attribute is of another type than the value, or is not there."""
    arguments += [storable(key), [storable(of) for of in value] if isinstance(value, list) else storable(value)]
    name, place = f"${len(arguments) - 1}::text", f"${len(arguments)}::{_TYPES[kind]}"
    read = f"(c.attributes ->> {name})::{_TYPES[kind]}" + (' COLLATE "C"' if kind == "string" else "")
    right = f"({place}[])" if isinstance(value, list) else place
    return f"CASE WHEN jsonb_typeof(c.attributes -> {name}) = '{kind}' THEN {read} {operator} {right} END"


def _kind(value: Scalar) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"


def packed(attributes: Attributes) -> str:
    return json.dumps({storable(key): storable(value) for key, value in attributes.items()}, ensure_ascii=False)


def storable(value: Any) -> Any:
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else value
