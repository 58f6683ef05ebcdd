"""Which requests of a model run together: the scheduler that a model's configuration asks for.

Schedulers do no I/O and know no clock: `now_ns` is an argument everywhere. The dynamic batcher follows Triton's rules:
a batch is a run of entries in the order of their turns, it never waits unless `max_queue_delay_microseconds` says so,
and it goes at once with a preferred size, or where it cannot grow.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from backends.config import DynamicBatching, ModelConfig
from backends.errors import InferenceError
from backends.worker.ordering import ArrivalOrder
from backends.worker.queue import Queue
from backends.worker.scheduling import Batch, Entry, Ordering, Scheduler, States

__all__ = ["Batch", "Entry", "Scheduler", "scheduler_for"]


def scheduler_for(config: ModelConfig, instances: int) -> Scheduler:
    """The scheduler of a model that runs in so many instances."""
    del instances
    if config.dynamic_batching is not None:
        return Dynamic(config, config.dynamic_batching)
    return Single()


class Single:
    """One request at a time on each instance, first come, first served: a model without a batcher."""

    def __init__(self) -> None:
        self.waiting = 0
        self.ordering: Ordering | None = None
        self.states: States | None = None
        self._entries: deque[Entry] = deque()

    def add(self, entry: Entry, now_ns: int) -> None:
        del now_ns
        entry.is_waiting = True
        self._entries.append(entry)
        self.waiting += 1

    def take(self, instance: int, now_ns: int) -> Batch | None:
        del instance, now_ns
        entries = self._entries
        while entries:
            entry = entries.popleft()
            if entry.is_waiting:
                entry.is_waiting = False
                self.waiting -= 1
                return Batch([entry], [entry.infer], entry.tensors, entry.rows)
        return None

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        pass

    def lost(self, instance: int, now_ns: int) -> None:
        pass

    def retry(self, entry: Entry, now_ns: int) -> None:
        del now_ns
        entry.is_waiting = True
        self._entries.appendleft(entry)
        self.waiting += 1

    def cancel(self, entry: Entry) -> bool:
        entry.is_cancelled = True
        if not entry.is_waiting:
            return False
        entry.is_waiting = False
        entry.tensors = []
        self.waiting -= 1
        return True

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        del now_ns
        return []

    def wake_at(self) -> int | None:
        return None


class Dynamic:
    """Triton's dynamic batcher: `dynamic_batching` of the configuration says how.

    While a batch waits to grow, `_hold_until_ns` and `_hold_rows` say when, and with how many rows, to look again:
    adding an entry to a long queue does not have the queue walked each time.
    """

    def __init__(self, config: ModelConfig, batching: DynamicBatching) -> None:
        self.ordering: Ordering | None = ArrivalOrder() if batching.preserve_ordering else None
        self.states: States | None = None
        self._queue = Queue(batching)
        self._most = max(1, config.max_batch_size)
        self._preferred = sorted(batching.preferred_batch_size) or [self._most]
        self._delay_ns = 1000 * batching.max_queue_delay_microseconds
        self._kinship = kinship_of(config)
        self._hold_until_ns = 0
        self._hold_rows = 0
        self._held: Entry | None = None

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    def add(self, entry: Entry, now_ns: int) -> None:
        self._queue.add(entry, now_ns)
        if self.ordering is not None:
            self.ordering.admit(entry)
        if self._hold_until_ns and self._held is not None and not self._is_kin(self._held, entry):
            self._hold_until_ns = 0

    def take(self, instance: int, now_ns: int) -> Batch | None:
        del instance
        queue = self._queue
        if not queue.waiting or (now_ns < self._hold_until_ns and queue.rows < self._hold_rows):
            return None
        self._hold_until_ns = 0
        entries = self._gather(now_ns)
        if not entries:
            return None
        queue.take(entries)
        return batch_of(entries)

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        pass

    def lost(self, instance: int, now_ns: int) -> None:
        pass

    def retry(self, entry: Entry, now_ns: int) -> None:
        del now_ns
        self._queue.retry(entry)
        self._hold_until_ns = 0

    def cancel(self, entry: Entry) -> bool:
        return self._queue.cancel(entry)

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        return self._queue.expired(now_ns)

    def wake_at(self) -> int | None:
        deadline_ns = self._queue.wake_at()
        if self._hold_until_ns and self._queue.waiting:
            return self._hold_until_ns if deadline_ns is None else min(deadline_ns, self._hold_until_ns)
        return deadline_ns

    def _gather(self, now_ns: int) -> list[Entry]:
        """The entries of the batch to run now; none where it should wait for more.

        Walks the queue from its front. The batch ends before an entry that would make it too large or that is of
        another shape, and goes at once then. Else it goes with the largest preferred size that was met on the way, or
        as it is once it cannot reach a larger one or its first entry has waited long enough.
        """
        most, largest, preferred, delay_ns = self._most, self._preferred[-1], self._preferred, self._delay_ns
        entries: list[Entry] = []
        rows = best = oldest_ns = 0
        is_complete = False
        for entry in self._queue:
            if not entries:
                oldest_ns = entry.arrived_ns
            else:
                grown = rows + entry.rows
                if grown > largest and not best:
                    best = len(entries)
                if grown > most or not self._is_kin(entries[0], entry):
                    is_complete = True
                    break
                oldest_ns = min(oldest_ns, entry.arrived_ns)
            entries.append(entry)
            rows += entry.rows
            if rows in preferred:
                best = len(entries)
            if rows >= most:
                break
        is_overdue = delay_ns > 0 and now_ns - oldest_ns >= delay_ns
        if best and not is_overdue:
            return entries[:best]
        if is_complete or is_overdue or not delay_ns or rows >= largest:
            return entries
        self._held = entries[0] if entries else None
        self._hold_until_ns = oldest_ns + delay_ns
        self._hold_rows = next(size for size in preferred if size > rows)
        return []

    def _is_kin(self, first: Entry, entry: Entry) -> bool:
        """Whether two entries may share a batch."""
        kinship = self._kinship
        if kinship is None:
            return True
        if first.kinship is None:
            first.kinship = kinship.of(first)
        if entry.kinship is None:
            entry.kinship = kinship.of(entry)
        return bool(first.kinship == entry.kinship)


class Kinship:
    """What requests must have in common to run together: the set of inputs, and the shapes of those not ragged."""

    __slots__ = ("_ragged",)

    def __init__(self, ragged: frozenset[str]) -> None:
        self._ragged = ragged

    def of(self, entry: Entry) -> Any:
        """Equal for two entries that are kin."""
        ragged = self._ragged
        shapes = [(tensor.name, () if tensor.name in ragged else tensor.shape[1:]) for tensor in entry.tensors]
        shapes.sort()
        return shapes


def kinship_of(config: ModelConfig) -> Kinship | None:
    """How to tell which requests of a model may share a batch; None where all of them may."""
    ragged = frozenset(tensor.name for tensor in config.input if tensor.allow_ragged_batch)
    fixed = [tensor for tensor in config.input if tensor.name not in ragged]
    is_uniform = not any(-1 in tensor.dims or tensor.is_shape_tensor for tensor in fixed)
    if is_uniform and config.input and not any(tensor.optional for tensor in config.input):
        return None
    return Kinship(ragged)


def batch_of(entries: list[Entry]) -> Batch:
    """Entries as one batch, in this order."""
    if len(entries) == 1:
        entry = entries[0]
        return Batch(entries, [entry.infer], entry.tensors, entry.rows)
    tensors = [tensor for entry in entries for tensor in entry.tensors]
    return Batch(entries, [entry.infer for entry in entries], tensors, sum([entry.rows for entry in entries]))
