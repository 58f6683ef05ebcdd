"""Pages as one text, without what is printed around it: running heads, page numbers, tables of contents.

They would stand amid sentences, and a table of contents has the words of many a question and none of the answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ensembles.ingest.document import Document
from ensembles.ingest.encodings import shorten

_ENOUGH = 3  # of the same, before it is no accident
_HEAD_CHARACTERS = 120
_HEAD_WORDS = 16
_FOOT_CHARACTERS = 40
_DIGITS_AT_MOST = 5
_HEADING = re.compile(r"^#{1,6} +(\S.*)$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_NO_HEAD = ("#", "|", "- ", "```")
_NO_NUMBER = ("#", "|")
_RUNS = re.compile(r"(?:\*[^*\s][^*\n]*\*(?: ?…)?\s*)+")
_DIGITS = re.compile(r"\d+")
_LAST_NUMBER = re.compile(r"(?:^|\s)(\d{1,4})\W{0,2}$")
# A heading of several lines, whose others are taken for headings or paragraphs of their own.
_BROKEN = re.compile(r"^(#{1,6} [^\n]*)\n\n(?:#{1,6} ([^\W\dA-Z_][^\n]*)|\*\*([^\W\dA-Z_][^*\n]*)\*\*)$", re.MULTILINE)
_WORD = re.compile(r"\w+")
_LAST_WORD = re.compile(r"([^\W\d_]+)-$")  # of a line, and divided
_LONE_ACCENTS = re.compile(r"(?:^|(?<=\s))[\u0300-\u036f]+ ?")
_Key = tuple[str, ...]


def joined(pages: Sequence[tuple[int, str]]) -> Document:
    """The document of these pages (number from 1 on, Markdown). A sentence that goes over an end stays whole."""
    texts = [_LONE_ACCENTS.sub("", shorten(text)).strip() for _, text in pages]
    words = Counter(_WORD.findall(" ".join(texts)))
    texts = [_BROKEN.sub(lambda found: _rejoined(found, words), text) for text in texts]
    texts = _without_numbers([number for number, _ in pages], texts)
    texts = [_without_contents(text) for text in _without_heads(_without_runs(texts))]
    parts: list[str] = []
    starts: list[tuple[int, int]] = []
    size = 0
    for (number, _), text in zip(pages, texts, strict=True):
        if not text:
            continue
        if parts:
            parts[-1], seam = _seam(parts[-1], text, words)
            size += len(parts[-1]) + len(seam)
            parts.append(seam)
        starts.append((size, number))
        parts.append(text)
    return Document("".join(parts), is_markdown=True, pages=starts)


def _seam(before: str, after: str, words: Mapping[str, int]) -> tuple[str, str]:
    """The end of a page as it goes on, and what comes between: nothing, a space, or the end of a paragraph."""
    is_open = before[-1].isalnum() or before[-1] == "," or _LAST_WORD.search(before)
    return _seam_within(before, after, words) if is_open and after[0].islower() else (before, "\n\n")


def _rejoined(broken: re.Match[str], words: Mapping[str, int]) -> str:
    rest = broken[2] or broken[3]
    before, between = _seam_within(broken[1], rest, words)
    return f"{before}{between}{rest}"


def _seam_within(before: str, after: str, words: Mapping[str, int]) -> tuple[str, str]:
    """How a line goes on: a hyphen stays where the document has either part elsewhere, and not the whole."""
    first, second = _LAST_WORD.search(before), _WORD.match(after)
    if first is None or second is None:
        return before, " "
    is_compound = min(words[first[1]], words[second[0]]) > 1 and first[1] + second[0] not in words
    return (before, "") if is_compound else (before[:-1], "")


def _without_numbers(numbers: Sequence[int], texts: Sequence[str]) -> list[str]:
    """Pages' own numbers are as far from their places on many pages. What is printed beside one goes with it."""
    ends = [(text.rpartition("\n")[0].partition("\n")[0], text.rpartition("\n")[2]) for text in texts]
    votes = Counter(
        offset
        for number, lines in zip(numbers, ends, strict=True)
        for offset in {int(found[1]) - number for found in map(_numbered, lines) if found}
    )
    own = {offset for offset, count in votes.items() if count >= _ENOUGH}
    kept = []
    for number, text, (first, last) in zip(numbers, texts, ends, strict=True):
        head, foot = _numbered(first), _numbered(last)
        has_head = head and int(head[1]) - number in own and len(first) <= _HEAD_CHARACTERS
        start, end = len(first) if has_head else 0, len(text)
        if foot and int(foot[1]) - number in own:
            end -= len(last) if len(last) <= _FOOT_CHARACTERS else len(last) - foot.start()
        kept.append(text[start:end].strip())
    return kept


def _numbered(line: str) -> re.Match[str] | None:
    return None if line.startswith(_NO_NUMBER) else _LAST_NUMBER.search(line)


def _without_runs(texts: Sequence[str]) -> list[str]:
    """Where many pages begin in italics, these are their running heads, of whatever text."""
    found = [_RUNS.match(text) for text in texts]
    count = sum(map(bool, found))
    if count < _ENOUGH or count * 4 < sum(map(bool, texts)):
        return list(texts)
    return [text[run.end() :] if run else text for text, run in zip(texts, found, strict=True)]


def _without_heads(texts: Sequence[str]) -> list[str]:
    """A heading, or a line that a page begins with, is a running head where several pages begin with its words."""
    known = {_key(line) for line in _lines(texts)}
    counts = Counter(key for text in texts for key, _ in _beginnings(text) if key in known)
    kept = []
    for text in texts:
        ends = [end for key, end in _beginnings(text) if counts[key] >= _ENOUGH]
        kept.append(text[ends[-1] :].lstrip() if ends else text)
    return kept


def _lines(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        yield from _HEADING.findall(text)
        yield text.partition("\n")[0][:_HEAD_CHARACTERS]


def _beginnings(text: str) -> list[tuple[_Key, int]]:
    """The first words of a page as a heading of each length, and where they end; none of what is marked."""
    if text.startswith(_NO_HEAD):
        return []
    words = [(word[0], word.end()) for word in re.finditer(r"\S+", text[:_HEAD_CHARACTERS])][:_HEAD_WORDS]
    keys = [_key(text[:end]) for _, end in words]
    return [(key, end) for key, (_, end) in zip(keys, words, strict=True) if len("".join(key)) > _ENOUGH]


def _key(line: str) -> _Key:
    """Its words, whatever the numbers in it."""
    return tuple(_DIGITS.sub("0", word) for word in line.split())


def _without_contents(text: str) -> str:
    """Lines that lead to numbers which only grow are a table of contents; a page of little else is none's loss."""
    lines = text.split("\n")
    found = [_led_to(line) for line in lines]
    numbers = [number for number in found if number]
    if len(numbers) < _ENOUGH or numbers != sorted(numbers):
        return text
    others = "\n".join(line for line, number in zip(lines, found, strict=True) if not number)
    if _letters(text) > 3 * _letters(others):
        return ""
    return _BLANK_LINES.sub("\n\n", others).strip()


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def _led_to(line: str) -> int:
    """The number that dots lead to at the end of a line, or of a table's row; 0 without."""
    whole = line.rstrip(" |")
    before = whole.rstrip("0123456789")
    number = whole[len(before) :]
    is_led = before.rstrip(" |").endswith((" .", ".."))
    return int(number) if is_led and 0 < len(number) < _DIGITS_AT_MOST else 0
