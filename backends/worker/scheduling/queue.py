"""Entries that wait for their turn: by priority, each level with its queue policy.

Triton's rules: a level is served before those below it, and within a level those that arrived first; an entry past its
timeout is refused (`REJECT`) or waits behind the others of its level (`DELAY`). Places in the queue are tickets, each a
list of one entry: an entry that leaves empties its own, so that leaving costs the same wherever it stood.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from operator import attrgetter

from backends.config import DynamicBatching, QueuePolicy
from backends.errors import Code, InferenceError
from backends.worker.scheduling.scheduler import Entry

Ticket = list[Entry]

# So many that left may stand in the queue without any that waits.
_DEAD_ALLOWED = 100


class Queue:
    """The waiting entries of one model. `waiting` counts them, `rows` their rows."""

    __slots__ = ("_batching", "_dead", "_deadlines", "_default", "_levels", "_numbered", "_serial", "rows", "waiting")

    def __init__(self, batching: DynamicBatching) -> None:
        self._batching = batching
        self._numbered: dict[int, _Level] = {}
        self._levels: list[_Level] = []
        self._numbered[0] = self._default = self._level(
            batching.default_priority_level or min(1, batching.priority_levels)
        )
        self._deadlines: list[tuple[int, int, Ticket]] = []
        self._serial = 0
        self._dead = 0
        self.waiting = 0
        self.rows = 0

    def add(self, entry: Entry, now_ns: int) -> None:
        """Let it wait at the end of its level, the default one where it names none. Raises `InferenceError`."""
        level = self._numbered.get(entry.infer.priority) or self._level(entry.infer.priority)
        if level.is_limited:
            self._check_size(level, entry)
        entry.place = level
        entry.queued_ns = now_ns
        entry.ticket = ticket = [entry]
        level.tickets.append(ticket)
        self._enter(level, entry)
        if level.has_timeout:
            self._set_deadline(level.policy, entry, now_ns)

    def retry(self, entry: Entry) -> None:
        """Let an entry that was taken wait again, before the others of its level."""
        level = entry.place
        entry.ticket = ticket = [entry]
        (level.delayed if entry.is_late else level.tickets).appendleft(ticket)
        self._enter(level, entry)

    def __iter__(self) -> Iterator[Entry]:
        """The entries in the order of their turns. Nothing may be added or taken meanwhile."""
        for level in self._levels:
            for tickets in (level.tickets, level.delayed):
                while tickets and not tickets[0]:
                    tickets.popleft()
                for ticket in tickets:
                    if ticket:
                        yield ticket[0]

    def take(self, entries: Iterable[Entry]) -> None:
        """These wait no more: they run."""
        for entry in entries:
            self._leave(entry)

    def cancel(self, entry: Entry) -> bool:
        """Whether it waited; it does not any more."""
        entry.is_cancelled = True
        if not entry.is_waiting:
            return False
        self._leave(entry)
        entry.tensors = []
        self._dead += 1
        if self._dead > self.waiting + _DEAD_ALLOWED:
            self._compact()
        return True

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        """Those that may wait no longer; others that are late go behind their level."""
        rejected = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ns:
            ticket = heappop(deadlines)[2]
            if not ticket:
                continue
            entry = ticket.pop()
            level = entry.place
            if level.policy.timeout_action == "DELAY":
                entry.is_late = True
                entry.ticket = ticket = [entry]
                level.delayed.append(ticket)
                continue
            self._leave(entry)
            entry.tensors = []
            rejected.append((entry, InferenceError("Request timeout expired", Code.UNAVAILABLE)))
        return rejected

    def wake_at(self) -> int | None:
        deadlines = self._deadlines
        while deadlines and not deadlines[0][2]:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def _level(self, number: int) -> _Level:
        """That of a number, the default one where there is none such. Made when it is first asked for."""
        batching = self._batching
        if self._levels and not 1 <= number <= batching.priority_levels:
            return self._default
        policy = batching.priority_queue_policy.get(number, batching.default_queue_policy)
        self._numbered[number] = level = _Level(number, policy)
        insort(self._levels, level, key=attrgetter("number"))
        return level

    def _check_size(self, level: _Level, entry: Entry) -> None:
        if level.waiting >= level.policy.max_queue_size:
            name = entry.infer.request_id or "<id_unknown>"
            raise InferenceError(f"[request id: {name}] Exceeds maximum queue size", Code.UNAVAILABLE)

    def _set_deadline(self, policy: QueuePolicy, entry: Entry, now_ns: int) -> None:
        timeout_us = policy.default_timeout_microseconds
        # A request may shorten the policy's timeout, never lengthen it, nor have one where the policy has none.
        if policy.allow_timeout_override and 0 < entry.infer.timeout_us < timeout_us:
            timeout_us = entry.infer.timeout_us
        self._serial += 1
        heappush(self._deadlines, (now_ns + 1000 * timeout_us, self._serial, entry.ticket))

    def _enter(self, level: _Level, entry: Entry) -> None:
        entry.is_waiting = True
        level.waiting += 1
        self.waiting += 1
        self.rows += entry.rows

    def _leave(self, entry: Entry) -> None:
        entry.ticket.clear()
        entry.is_waiting = False
        entry.place.waiting -= 1
        self.waiting -= 1
        self.rows -= entry.rows

    def _compact(self) -> None:
        for level in self._levels:
            level.tickets = deque(filter(None, level.tickets))
            level.delayed = deque(filter(None, level.delayed))
        self._deadlines = [deadline for deadline in self._deadlines if deadline[2]]
        heapify(self._deadlines)
        self._dead = 0


class _Level:
    """One priority: those in time, and those whose timeout has passed where they may still wait."""

    __slots__ = ("delayed", "has_timeout", "is_limited", "number", "policy", "tickets", "waiting")

    def __init__(self, number: int, policy: QueuePolicy) -> None:
        self.number = number
        self.policy = policy
        self.is_limited = policy.max_queue_size > 0
        self.has_timeout = policy.default_timeout_microseconds > 0
        self.tickets: deque[Ticket] = deque()
        self.delayed: deque[Ticket] = deque()
        self.waiting = 0
