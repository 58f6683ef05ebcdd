"""Entries that wait for their turn: by priority, each level with its queue policy.

Triton's rules: a level is served before those below it, and within a level those that arrived first; an entry past its
timeout is refused (`REJECT`) or waits behind the others of its level (`DELAY`). An entry that leaves is only marked:
its place in the queue is given up when the queue comes to it, so that leaving costs the same wherever it stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from backends.config import DynamicBatching, QueuePolicy
from backends.errors import Code, InferenceError
from backends.worker.scheduling import Entry

# So many that left may stand in the queue without any that waits.
_DEAD_ALLOWED = 100


class Queue:
    """The waiting entries of one model. `waiting` counts them, `rows` their rows."""

    __slots__ = ("_dead", "_deadlines", "_default", "_levels", "_numbered", "_serial", "rows", "waiting")

    def __init__(self, batching: DynamicBatching) -> None:
        numbers = range(1, batching.priority_levels + 1) if batching.priority_levels else (0,)
        policies = batching.priority_queue_policy
        self._numbered = {number: _Level(policies.get(number, batching.default_queue_policy)) for number in numbers}
        self._levels = list(self._numbered.values())
        self._default = self._numbered.get(batching.default_priority_level, self._levels[0])
        self._deadlines: list[tuple[int, int, Entry]] = []
        self._serial = 0
        self._dead = 0
        self.waiting = 0
        self.rows = 0

    def add(self, entry: Entry, now_ns: int) -> None:
        """Let it wait at the end of its level, the default one where it names none. Raises `InferenceError`."""
        level = self._numbered.get(entry.infer.priority, self._default)
        if level.is_limited:
            self._limit(level, entry, now_ns)
        level.waiting += 1
        level.entries.append(entry)
        entry.place = level
        entry.queued_ns = now_ns
        entry.is_waiting = True
        self.waiting += 1
        self.rows += entry.rows

    def retry(self, entry: Entry) -> None:
        """Let an entry that was taken wait again, before the others of its level."""
        level = entry.place
        entries = level.delayed if entry.is_late else level.entries
        if entry in entries:  # the place that it left is still marked
            entries.remove(entry)
        entries.appendleft(entry)
        level.waiting += 1
        entry.is_waiting = True
        self.waiting += 1
        self.rows += entry.rows

    def __iter__(self) -> Iterator[Entry]:
        """The entries in the order of their turns. Nothing may be added or taken meanwhile."""
        for level in self._levels:
            entries = level.entries
            while entries and (entries[0].is_late or not entries[0].is_waiting):
                entries.popleft()
            for entry in entries:
                if entry.is_waiting and not entry.is_late:
                    yield entry
            delayed = level.delayed
            while delayed and not delayed[0].is_waiting:
                delayed.popleft()
            for entry in delayed:
                if entry.is_waiting:
                    yield entry

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
            entry = heappop(deadlines)[2]
            if not entry.is_waiting:
                continue
            level = entry.place
            if level.policy.timeout_action == "DELAY":
                entry.is_late = True
                level.delayed.append(entry)
                continue
            self._leave(entry)
            entry.tensors = []
            rejected.append((entry, InferenceError("Request timeout expired", Code.UNAVAILABLE)))
        return rejected

    def wake_at(self) -> int | None:
        deadlines = self._deadlines
        while deadlines and not deadlines[0][2].is_waiting:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def _limit(self, level: _Level, entry: Entry, now_ns: int) -> None:
        policy = level.policy
        if policy.max_queue_size and level.waiting >= policy.max_queue_size:
            name = entry.infer.request_id or "<id_unknown>"
            raise InferenceError(f"[request id: {name}] Exceeds maximum queue size", Code.UNAVAILABLE)
        timeout_us = policy.default_timeout_microseconds
        # A request may shorten the policy's timeout, never lengthen it, nor have one where the policy has none.
        if policy.allow_timeout_override and 0 < entry.infer.timeout_us < timeout_us:
            timeout_us = entry.infer.timeout_us
        if timeout_us:
            self._serial += 1
            heappush(self._deadlines, (now_ns + 1000 * timeout_us, self._serial, entry))

    def _leave(self, entry: Entry) -> None:
        entry.is_waiting = False
        entry.place.waiting -= 1
        self.waiting -= 1
        self.rows -= entry.rows

    def _compact(self) -> None:
        for level in self._levels:
            level.entries = deque(entry for entry in level.entries if entry.is_waiting and not entry.is_late)
            level.delayed = deque(entry for entry in level.delayed if entry.is_waiting)
        self._deadlines = [deadline for deadline in self._deadlines if deadline[2].is_waiting]
        heapify(self._deadlines)
        self._dead = 0


class _Level:
    """One priority: those in time, and those whose timeout has passed where they may still wait."""

    __slots__ = ("delayed", "entries", "is_limited", "policy", "waiting")

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.is_limited = bool(policy.max_queue_size or policy.default_timeout_microseconds)
        self.entries: deque[Entry] = deque()
        self.delayed: deque[Entry] = deque()
        self.waiting = 0
