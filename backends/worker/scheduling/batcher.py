"""Which requests of a model run together: the scheduler that a model's configuration asks for.

Schedulers do no I/O and know no clock: `now_ns` is an argument everywhere.
"""

from __future__ import annotations

from collections import deque

from backends.config import ModelConfig
from backends.errors import InferenceError
from backends.worker.scheduling.direct import Direct
from backends.worker.scheduling.dynamic import Dynamic
from backends.worker.scheduling.oldest import Oldest
from backends.worker.scheduling.scheduler import Batch, Entry, Ordering, Scheduler, States

__all__ = ["Batch", "Entry", "Scheduler", "scheduler_for"]


def scheduler_for(config: ModelConfig, instances: int) -> Scheduler:
    """The scheduler of a model that runs in so many instances. Raises `InvalidRequest`."""
    sequences = config.sequence_batching
    if sequences is not None:
        if sequences.oldest is not None:
            return Oldest(config, sequences.oldest, instances)
        return Direct(config, sequences, instances)
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

    def again(self, entry: Entry, now_ns: int) -> None:
        self.retry(entry, now_ns)

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
