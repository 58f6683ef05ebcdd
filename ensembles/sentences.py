"""Where the sentences of a text begin and end; rows of tables, items of lists and blocks of code count as such."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

# What is shorter, as a heading, the end of "e.g.", or the number of a list, belongs to what follows it.
_LEAST_CHARACTERS = 40
_ENDED = re.compile(r"[.!?]+[\"'”’»)\]*_`]*\s+(?![a-z])|[。！？]+[”’」』）]*")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_HEADING = re.compile(r"#{1,6}\s")
_BEGINS = re.compile(r"\s*(?:[-*+•]\s|\d{1,3}[.)]\s|\||#{1,6}\s)")


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each, in order, without the white space between them."""
    found: list[tuple[int, int]] = []
    begun = -1
    for start, end in _parts(text):
        first = start if begun < 0 else begun
        is_heading = _HEADING.match(text, start, end) is not None
        if is_heading or end - first < _LEAST_CHARACTERS:
            begun = first
            continue
        found.append((first, end))
        begun = -1
    if begun >= 0:
        end = len(text.rstrip())
        found[-1:] = [(found[-1][0], end)] if found else [(begun, end)]
    return found


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """The same before short ones are joined."""
    for start, end, is_prose in _blocks(text):
        ends = [match.end() for match in _ENDED.finditer(text, start, end)] if is_prose else []
        for first, last in pairwise((start, *ends, end)):
            yield from _trimmed(text, first, last)


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is prose) of paragraphs, items, rows, headings and blocks of code."""
    start = position = 0
    in_code = False
    for line in text.splitlines(keepends=True):
        after = position + len(line)
        if _FENCE.match(line):
            if in_code:
                yield start, after, False
                start = after
            else:
                yield start, position, True
                start = position
            in_code = not in_code
        elif not in_code and (not line.strip() or _BEGINS.match(line)):
            yield start, position, True
            start = position
        position = after
    yield start, position, not in_code


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    part = text[start:end]
    if stripped := part.strip():
        first = start + part.index(stripped)
        yield first, first + len(stripped)
