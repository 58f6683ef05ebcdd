"""A test collection in the layout of BEIR (Thakur et al. 2021): documents, questions, and what answers what."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.errors import InvalidRequest

CORPUS, QUERIES, JUDGEMENTS = "corpus.jsonl", "queries.jsonl", "qrels"


class _Entry(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    text: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """`documents` are Markdown by id, their title a heading; those with neither title nor text are left out.

    `queries` are those that the split has judgements of; `grades` are theirs, by query and document.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]


def read(folder: Path, split: str) -> Dataset:
    """Raises `InvalidRequest` naming the file that is missing or wrong, and its line."""
    grades = _judgements(folder / JUDGEMENTS / f"{split}.tsv")
    documents = {entry.id: _markdown(entry) for entry in _entries(folder / CORPUS)}
    queries = {entry.id: entry.text for entry in _entries(folder / QUERIES) if entry.id in grades}
    if not queries:
        raise InvalidRequest(f"{folder / QUERIES} has no query that {split}.tsv judges.", param="split")
    return Dataset({key: text for key, text in documents.items() if text}, queries, grades)


def _markdown(entry: _Entry) -> str:
    title, text = " ".join((entry.title or "").split()), entry.text.strip()
    return f"# {title}\n\n{text}" if title else text


def _entries(file: Path) -> Iterator[_Entry]:
    decoder = msgspec.json.Decoder(_Entry)
    for number, line in _numbered(file):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{file}, line {number} is no object with '_id' and 'text': {error}") from error


def _judgements(file: Path) -> dict[str, dict[str, int]]:
    """Rows of query, document and grade; queries without a grade above 0 measure nothing and are left out."""
    grades: dict[str, dict[str, int]] = {}
    for number, line in _numbered(file):
        if number == 1:
            continue
        try:
            ((query, document, grade),) = csv.reader([line], delimiter="\t")
            grades.setdefault(query, {})[document] = int(grade)
        except ValueError as error:
            raise InvalidRequest(f"{file}, line {number} is no query, document and grade.") from error
    return {query: of for query, of in grades.items() if max(of.values()) > 0}


def _numbered(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open(encoding="utf-8") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", param="dataset") from error
