"""A token's event, known by the one before it: nine tenths of a stream, at a tenth of the cost of reading it.

An engine's events differ in their text alone. What stood before and after the text of one event that was looked at
is remembered; a read of the socket that is one HTTP chunk with the same around it, and no quote in between, can
be nothing else than the next token. It may go to the client as it is, with its framing, unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from backends.model import Frame

_TEXT = re.compile(rb'"(?:content|text)": ?"')
# How many events of a stream are learned from: the first have a role, some streams (tool calls) have no text at all.
_LESSONS = 4
_KNOWN_SIZES = 1024
_IMPOSSIBLE = b"\0"
# What else a read could start with is the rest of an event that began before: it must wait for nothing.
_STARTS = (b"data:", b"event:")


class Pattern:
    """What stands around the text of one stream's events."""

    __slots__ = ("_after", "_before", "_lessons")

    def __init__(self) -> None:
        self._before = self._after = b""
        self._lessons = _LESSONS

    @property
    def is_known(self) -> bool:
        return bool(self._after)

    def learn(self, event: bytes) -> bool:
        """Look at one whole `event`; whether it taught something new.

        It must have a text, and nothing else that anybody reads: no usage, no error.
        """
        if not self._lessons or not event.startswith(_STARTS) or event.find(b"\n\n") != len(event) - 2:
            return False
        self._lessons -= 1
        field = _TEXT.search(event)
        end = event.find(b'"', field.end()) if field else -1
        if field is None or end <= field.end() or event[end - 1 : end] == b"\\" or _says_more(event):
            return False
        known = self._before, self._after
        self._before, self._after = event[: field.end()], event[end:]
        return (self._before, self._after) != known

    def text(self, event: bytes) -> bytes | None:
        """The text of a whole event, as JSON writes it, if it is one like those before it."""
        start, end = len(self._before), len(event) - len(self._after)
        if event.startswith(self._before) and event.endswith(self._after) and event.find(b'"', start) == end:
            return event[start:end]
        return None

    def gate(self, take: Frame) -> Callable[[bytes], bool]:
        """`take` for reads that are one token's event in one HTTP chunk, False for all others."""
        before, after = self._before, self._after + b"\r\n"
        after_size = len(after)
        heads: dict[int, bytes] = {}

        def offer(data: bytes) -> bool:
            size = len(data)
            head = heads.get(size)
            if head is None:
                if len(heads) == _KNOWN_SIZES:
                    heads.clear()
                head = heads[size] = _head(size, before)
            start, end = len(head), size - after_size
            # The first quote behind `head` begins `after`: then nothing but text can stand between them.
            return (
                data.startswith(head)
                and data.endswith(after)
                and data.find(b'"', start) == end
                and take(data, start, end)
            )

        return offer


def _head(size: int, before: bytes) -> bytes:
    """How a read of so many bytes begins that is one chunk: its size (RFC 9112 §7.1), then `before`."""
    for digits in range(1, 8):
        line = b"%x\r\n" % max(0, size - digits - 4)
        if len(line) == digits + 2:
            return line + before
    return _IMPOSSIBLE


def _says_more(event: bytes) -> bool:
    return event.find(b'"usage":{') >= 0 or event.find(b'"usage": {') >= 0 or event.find(b'"error"') >= 0
