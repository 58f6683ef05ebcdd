"""Rows of tables and JSON values as text: each record a paragraph that names its fields, so that it can stand alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ensembles.ingest.encodings import TEXT_CHARACTERS, decoded, read_text, too_long
from ensembles.ingest.faults import invalid

_MOST_FIELDS = 2000
_DEPTH = 200


def read_csv(path: Path, delimiter: str | None = None) -> str:
    """Each row as `column: value` lines; without a row of names, the values alone."""
    lines = _lines(path)
    first = next(lines, "")
    if delimiter is None:
        delimiter = max(",;\t|", key=first.count)
    try:
        rows = csv.reader(_chained(first, lines), delimiter=delimiter)
        names = next(rows, [])
        if _is_data(names):
            return _joined(_row([], row) for row in _chained(names, rows))
        # Names without rows are all that there is.
        return _joined(_row(names, row) for row in rows) or ", ".join(names)
    except csv.Error as error:
        raise invalid(f"The table cannot be read: {error}.") from error


def read_json(path: Path) -> str:
    """A list as its records, anything else as one, with dotted paths for what is nested."""
    value = _decoded(read_text(path), "The file")
    records = value if isinstance(value, list) else [value]
    return _joined(map(_record, records))


def read_jsonl(path: Path) -> str:
    """Each line as a record."""
    numbered = enumerate(_lines(path), 1)
    return _joined(_record(_decoded(line, f"Line {number}")) for number, line in numbered if line.strip())


def _record(value: Any) -> str:
    return "\n".join(_fields("", value, 0))


def _fields(path: str, value: Any, depth: int) -> Iterator[str]:
    if depth > _DEPTH:
        raise invalid(f"The JSON is nested deeper than {_DEPTH}.")
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _fields(f"{path}.{key}" if path else key, member, depth + 1)
    elif isinstance(value, list) and any(isinstance(member, dict | list) for member in value):
        for member in value:
            yield from _fields(path, member, depth + 1)
    elif isinstance(value, list):
        yield _line(path, ", ".join(map(_scalar, value)))
    else:
        yield _line(path, _scalar(value))


def _line(name: str, value: str) -> str:
    return f"{name}: {value}" if name else value


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _decoded(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise invalid(f"{what} is no JSON: {error}.") from error
    except RecursionError as error:
        raise invalid(f"{what} is nested too deep.") from error


def _row(names: list[str], row: list[str]) -> str:
    if len(row) > _MOST_FIELDS:
        raise invalid(f"A row of the table has {len(row)} fields, over the limit of {_MOST_FIELDS}.")
    named = (*names, *[""] * (len(row) - len(names)))
    return "\n".join(
        _line(name.strip(), value.strip()) for name, value in zip(named, row, strict=False) if value.strip()
    )


def _is_data(names: list[str]) -> bool:
    """Whether a first row is none of names: they are texts, each another one."""
    return len(set(names)) < len(names) or any(_is_number(name) for name in names)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _joined(records: Iterable[str]) -> str:
    parts, size = [], 0
    for record in records:
        if record:
            parts.append(record)
            size += len(record)
            if size > TEXT_CHARACTERS:
                raise too_long()
    return "\n\n".join(parts)


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which a quoted field may go across; one without an end is bounded."""
    rest = ""
    for piece in decoded(path):
        lines = (rest + piece).splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        if len(rest) > TEXT_CHARACTERS:
            raise too_long()
        yield from lines
    if rest:
        yield rest


def _chained(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest
