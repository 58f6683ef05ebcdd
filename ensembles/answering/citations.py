"""Citations of an answer: markers such as [1] and [2, 3] found as the text streams, or likeness of words at its end.

A marker's numbers are those of the passages in the prompt. Markers stay in the text; numbers of passages that do not
exist are taken out of it. In code, set off by backticks, brackets mean something else and are left alone. Positions
count the characters (code points) of the text that goes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ensembles.step import Passage

_MARK = re.compile(r"`+|\n| ?\[\d{1,3}(?:, ?\d{1,3}){0,15}\]")
# What may become one with the text that follows; no longer than a marker can be.
_BEGUN = re.compile(r"(?:`+| ?\[[\d, ]{0,78}| )\Z")
_NUMBER = re.compile(r"\d+")
_SENTENCE = re.compile(r"\S[^\n]*?(?:[.!?。！？](?=\s|\Z|[^\x00-\x7f])|(?=\n)|\Z)")
_WORD = re.compile(r"\w{3,}|[^\x00-\x7f]")
_FENCE = 3


@dataclass(frozen=True, slots=True)
class Citation:
    """`start` to `end` of the text say what passage `number` says; `by_words`: nobody but likeness claims it."""

    start: int
    end: int
    number: int
    by_words: bool = False


class Markers:
    """The markers of one text, which comes in pieces of any size. `unknown` counts the numbers taken out."""

    __slots__ = ("_code", "_count", "_held", "_position", "unknown")

    def __init__(self, count: int) -> None:
        self._count = count
        self._held = ""
        self._position = 0
        self._code = 0
        self.unknown = 0

    def feed(self, text: str) -> tuple[str, list[Citation]]:
        """What of the text can go out by now, and the citations in it."""
        text = self._held + text
        begun = _BEGUN.search(text) if text and (text[-1] in " `[," or text[-1].isdigit()) else None
        self._held = "" if begun is None else begun.group()
        return self._pass(text[: len(text) - len(self._held)])

    def end(self) -> tuple[str, list[Citation]]:
        """The rest."""
        text, self._held = self._held, ""
        return self._pass(text)

    def _pass(self, text: str) -> tuple[str, list[Citation]]:
        if "[" not in text and "`" not in text and not self._code:
            self._position += len(text)
            return text, []
        parts: list[str] = []
        citations: list[Citation] = []
        last = 0
        for match in _MARK.finditer(text):
            mark = match.group()
            if mark[0] == "`" or mark == "\n":
                self._toggle(mark)
            elif not self._code:
                before = text[last : match.start()]
                written, numbers = self._read(mark)
                self._position += len(before) + len(written)
                parts += (before, written)
                last = match.end()
                start = self._position - len(written.lstrip(" "))
                citations += [Citation(start, self._position, number) for number in numbers]
        rest = text[last:]
        self._position += len(rest)
        return "".join([*parts, rest]), citations

    def _toggle(self, mark: str) -> None:
        """Code between single backticks ends with its line, as an odd one would never end."""
        if mark == "\n":
            self._code = self._code if self._code >= _FENCE else 0
        elif not self._code:
            self._code = len(mark)
        elif len(mark) == self._code or (len(mark) > self._code >= _FENCE):
            self._code = 0

    def _read(self, mark: str) -> tuple[str, list[int]]:
        """The marker as it is written, and the passages that it names."""
        numbers = [int(number) for number in _NUMBER.findall(mark)]
        known = list(dict.fromkeys(number for number in numbers if 1 <= number <= self._count))
        wrong = sum(not 1 <= number <= self._count for number in numbers)
        if not wrong:
            return mark, known
        self.unknown += wrong
        lead = " " if mark[0] == " " else ""
        return f"{lead}[{', '.join(map(str, known))}]" if known else "", known


def by_words(text: str, passages: Sequence[Passage], least: float) -> Iterator[Citation]:
    """Citations of the sentences most of whose words stand in a passage, for an answer that cites nothing itself.

    `least` is the share of a sentence's words, between 0 and 1.
    """
    known = [(passage.number, _words(passage.chunk.text)) for passage in passages if passage.number]
    for match in _SENTENCE.finditer(text):
        words = _words(match.group())
        if len(words) < 3:
            continue
        shares = [(len(words & there) / len(words), -number) for number, there in known]
        share, number = max(shares, default=(0.0, 0))
        if share >= least:
            yield Citation(match.start(), match.end(), -number, by_words=True)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))
