"""Filters and attributes as LanceDB's SQL and JSON have them: a letter before each key tells the type of its value."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ensembles.stores.filters import Comparison, Compound, Filter
from ensembles.stores.store import Attributes, Scalar

_OPERATORS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def matching(condition: Filter) -> str:
    """A filter as LanceDB's SQL."""
    if isinstance(condition, Compound):
        return f"({f' {condition.type.upper()} '.join(map(matching, condition.filters))})"
    return f"({_comparison(condition)})"


def files_are(file_ids: Iterable[str]) -> str:
    """The condition of all chunks of these files."""
    return f"file_id IN ({', '.join(map(_quoted, file_ids))})"


def packed(attributes: Attributes) -> str:
    """Attributes as they are kept."""
    return json.dumps({_letter(value) + key: value for key, value in attributes.items()}, ensure_ascii=False)


def unpacked(text: str) -> Attributes:
    """Attributes from what was kept."""
    return {key[1:]: value for key, value in json.loads(text).items()}


def _comparison(condition: Comparison) -> str:
    key, value = condition.key, condition.value
    if isinstance(value, list):
        members: dict[str, list[str]] = {}
        for member in value:
            members.setdefault(_reading(key, member), []).append(_literal(member))
        if condition.type == "in":
            return " OR ".join(f"{read} IN ({', '.join(of)})" for read, of in members.items()) or "false"
        return (
            " AND ".join(f"({read} IS NULL OR {read} NOT IN ({', '.join(of)}))" for read, of in members.items())
            or "true"
        )
    read = _reading(key, value)
    if condition.type == "ne":
        return f"{read} IS NULL OR {read} <> {_literal(value)}"
    return f"{read} {_OPERATORS[condition.type]} {_literal(value)}"


def _reading(key: str, value: Scalar) -> str:
    """The attribute where it has the type of the value, NULL where it has another or is not there."""
    kind = {"s": "string", "n": "float", "b": "bool"}[_letter(value)]
    return f"json_get_{kind}(attributes, {_quoted(_letter(value) + key)})"


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _letter(value: Scalar) -> str:
    if isinstance(value, bool):
        return "b"
    return "s" if isinstance(value, str) else "n"
