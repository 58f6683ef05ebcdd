"""Dynamic batching by Triton's rules: what has arrived runs together.

A batch never waits unless `max_queue_delay_microseconds` says so, and it goes at once with a preferred size, or where
it cannot grow.
"""

from __future__ import annotations

from typing import Protocol

from backends.config import DynamicBatching, ModelConfig
from backends.errors import InferenceError
from backends.worker.scheduling.kinship import Kinship, are_kin, kinship_of
from backends.worker.scheduling.lengths import MAX_BATCH_TOKENS, by_tokens
from backends.worker.scheduling.ordering import ArrivalOrder
from backends.worker.scheduling.queue import Queue
from backends.worker.scheduling.scheduler import Batch, Entry, Ordering, States


class Choice(Protocol):
    """Which entries of a queue run next."""

    def choose(self, queue: Queue, now_ns: int) -> tuple[list[Entry], int, int]:
        """The entries of a batch, or none, and when and with how many waiting rows to look again."""
        ...


class Dynamic:
    """The dynamic batcher of a model: `dynamic_batching` of the configuration says how.

    While a batch waits to grow, `_hold_until_ns` and `_hold_rows` say when, and with how many rows, to look again:
    adding an entry to a long queue does not have the queue walked each time.
    """

    def __init__(self, config: ModelConfig, batching: DynamicBatching) -> None:
        """Raises `InvalidRequest` for parameters that are no numbers."""
        self.ordering: Ordering | None = ArrivalOrder() if batching.preserve_ordering else None
        self.states: States | None = None
        self._queue = Queue(batching)
        self._kinship = kinship_of(config)
        self._choice: Choice = (
            by_tokens(config, batching, self._kinship)
            if MAX_BATCH_TOKENS in config.parameters
            else BySize(config, batching, self._kinship)
        )
        self._hold_until_ns = 0
        self._hold_rows = 0

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    def add(self, entry: Entry, now_ns: int) -> None:
        self._queue.add(entry, now_ns)
        if self.ordering is not None:
            self.ordering.admit(entry)
        if self._hold_until_ns and self._kinship is not None:
            self._hold_until_ns = 0  # it may be of another shape, which sends the batch that waits

    def take(self, instance: int, now_ns: int) -> Batch | None:
        del instance
        queue = self._queue
        if not queue.waiting or (now_ns < self._hold_until_ns and queue.rows < self._hold_rows):
            return None
        entries, self._hold_until_ns, self._hold_rows = self._choice.choose(queue, now_ns)
        if not entries:
            return None
        queue.take(entries)
        return batch_of(entries)

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        pass

    def lost(self, instance: int, now_ns: int) -> None:
        del instance, now_ns
        self._hold_until_ns = 0  # it may have been what the batch waited for

    def retry(self, entry: Entry, now_ns: int) -> None:
        del now_ns
        self._queue.retry(entry)
        self._hold_until_ns = 0

    def again(self, entry: Entry, now_ns: int) -> None:
        self.retry(entry, now_ns)

    def cancel(self, entry: Entry) -> bool:
        return self._queue.cancel(entry)

    def clear(self) -> list[Entry]:
        """All entries that wait; they do not any more."""
        entries = list(self._queue)
        self._queue.take(entries)
        return entries

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        return self._queue.expired(now_ns)

    def wake_at(self) -> int | None:
        deadline_ns = self._queue.wake_at()
        if self._hold_until_ns and self._queue.waiting:
            return self._hold_until_ns if deadline_ns is None else min(deadline_ns, self._hold_until_ns)
        return deadline_ns


class BySize:
    """Triton's choice: a run of entries from the front of the queue, up to a preferred size."""

    def __init__(self, config: ModelConfig, batching: DynamicBatching, kinship: Kinship | None) -> None:
        self._most = max(1, config.max_batch_size)
        self._preferred = sorted(batching.preferred_batch_size) or [self._most]
        self._delay_ns = 1000 * batching.max_queue_delay_microseconds
        self._kinship = kinship

    def choose(self, queue: Queue, now_ns: int) -> tuple[list[Entry], int, int]:
        """The batch ends before an entry that would make it too large or is of another shape, and goes at once then.

        Else it goes with the largest preferred size that was met on the way, or as it is once it cannot reach a larger
        one or its oldest entry has waited long enough.
        """
        most, preferred, delay_ns, kinship = self._most, self._preferred, self._delay_ns, self._kinship
        largest = preferred[-1]
        entries: list[Entry] = []
        rows = best = oldest_ns = 0
        is_complete = False
        for entry in queue:
            if not entries:
                oldest_ns = entry.queued_ns
            else:
                grown = rows + entry.rows
                if grown > largest and not best:
                    best = len(entries)
                if grown > most or (kinship is not None and not are_kin(kinship, entries[0], entry)):
                    is_complete = True
                    break
                oldest_ns = min(oldest_ns, entry.queued_ns)
            entries.append(entry)
            rows += entry.rows
            if rows in preferred:
                best = len(entries)
            if rows >= most:
                break
        is_overdue = delay_ns > 0 and now_ns - oldest_ns >= delay_ns
        if best and not is_overdue:
            return entries[:best], 0, 0
        if is_complete or is_overdue or not delay_ns or rows >= largest:
            return entries, 0, 0
        return [], oldest_ns + delay_ns, next(size for size in preferred if size > rows)


def batch_of(entries: list[Entry]) -> Batch:
    """Entries as one batch, in this order."""
    if len(entries) == 1:
        entry = entries[0]
        return Batch(entries, [entry.infer], entry.tensors, entry.rows)
    tensors = [tensor for entry in entries for tensor in entry.tensors]
    return Batch(entries, [entry.infer for entry in entries], tensors, sum([entry.rows for entry in entries]))
