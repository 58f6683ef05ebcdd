"""Answers in the order in which their requests came (Triton's `preserve_ordering`)."""

from __future__ import annotations

from collections import deque
from typing import Any

from backends.worker.scheduling.scheduler import Entry


class ArrivalOrder:
    """Holds answers back until every entry that came before has its final one."""

    __slots__ = ("_entries", "_held")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._held: dict[Entry, list[tuple[Any, bool]]] = {}

    def admit(self, entry: Entry) -> None:
        """The next to come."""
        self._entries.append(entry)
        self._held[entry] = []

    def release(self, entry: Entry, answer: Any, final: bool) -> list[tuple[Entry, Any]]:
        """What may leave now that this answer to an entry is there; one that never came in waits for nobody."""
        entries, held = self._entries, self._held
        answers = held.get(entry)
        if answers is None:
            return [(entry, answer)]
        if entry is not entries[0]:
            answers.append((answer, final))
            return []
        leaving = [(entry, answer)]
        is_over = final
        while is_over:
            del held[entries.popleft()]
            is_over = False
            if entries:
                first = entries[0]
                answers = held[first]
                leaving.extend((first, answer) for answer, _ in answers)
                is_over = bool(answers) and answers[-1][1]
                answers.clear()
        return leaving
