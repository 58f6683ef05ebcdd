"""Sequence batching by age: the oldest requests of an instance's sequences run together, one of each sequence.

Triton's `oldest` strategy: each instance has a dynamic batcher of its own, which a sequence's next request enters when
the one before it has run.
"""

from __future__ import annotations

from backends.config import DynamicBatching, ModelConfig
from backends.config import Oldest as Strategy
from backends.errors import InferenceError
from backends.tensors import Tensor
from backends.worker.scheduling.controls import Controls
from backends.worker.scheduling.dynamic import Dynamic
from backends.worker.scheduling.ordering import ArrivalOrder
from backends.worker.scheduling.scheduler import Batch, Entry, Ordering, States
from backends.worker.scheduling.sequences import Sequence, Sequences


class Oldest:
    """Dynamic batches of at most one request a sequence, of at most `max_candidate_sequences` an instance."""

    def __init__(self, config: ModelConfig, oldest: Strategy, instances: int) -> None:
        """Raises `InvalidRequest` where the initial states cannot be read."""
        self.ordering: Ordering | None = ArrivalOrder() if oldest.preserve_ordering else None
        candidates = max(oldest.max_candidate_sequences, 0) or max(1, config.max_batch_size)
        self._sequences = Sequences(config, Controls(config), instances, candidates)
        self.states: States | None = self._sequences.states
        batching = DynamicBatching(oldest.preferred_batch_size, oldest.max_queue_delay_microseconds)
        self._batchers = [Dynamic(config, batching) for _ in range(instances)]

    @property
    def waiting(self) -> int:
        return self._sequences.waiting + sum(batcher.waiting for batcher in self._batchers)

    def add(self, entry: Entry, now_ns: int) -> None:
        sequence = self._sequences.add(entry, now_ns)
        if self.ordering is not None:
            self.ordering.admit(entry)
        self._advance(sequence, now_ns)
        self._advance_seated(now_ns)

    def take(self, instance: int, now_ns: int) -> Batch | None:
        self._sequences.arrive(instance)
        self._advance_seated(now_ns)
        batch = self._batchers[instance].take(instance, now_ns)
        if batch is None:
            return None
        tensors: list[Tensor] = []
        for entry in batch.entries:
            tensors += self._sequences.dress(entry)
            batch.slots.append(entry.sequence)
        batch.tensors = tensors
        return batch

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        del instance
        for sequence in batch.slots:
            self._sequences.touch(sequence, now_ns)
            self._advance(sequence, now_ns)
        self._advance_seated(now_ns)

    def lost(self, instance: int, now_ns: int) -> None:
        sequences = self._sequences
        for entry in self._batchers[instance].clear():
            sequences.forsake(entry)
        sequences.lose(instance, now_ns)
        self._advance_seated(now_ns)

    def retry(self, entry: Entry, now_ns: int) -> None:
        del now_ns
        self._sequences.forsake(entry)

    def again(self, entry: Entry, now_ns: int) -> None:
        self._sequences.again(entry, now_ns)

    def cancel(self, entry: Entry) -> bool:
        entry.is_cancelled = True
        if not entry.is_waiting:
            return False
        sequence: Sequence = entry.sequence
        if entry.place is not sequence:
            self._batchers[sequence.instance].cancel(entry)
            sequence.running = 0
        self._sequences.cancel(entry)
        return True

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        self._sequences.expire(now_ns)
        self._advance_seated(now_ns)
        return self._sequences.take_failed()

    def wake_at(self) -> int | None:
        if self._sequences.failed:
            return 0
        times = [self._sequences.wake_at(), *(batcher.wake_at() for batcher in self._batchers)]
        return min((time_ns for time_ns in times if time_ns is not None), default=None)

    def _advance(self, sequence: Sequence, now_ns: int) -> None:
        """Let the next request of a sequence stand for its turn, if none of it does or runs."""
        if sequence.instance >= 0 and sequence.entries and not sequence.running:
            sequence.running = 1
            entry = self._sequences.next(sequence)
            self._batchers[sequence.instance].add(entry, now_ns)

    def _advance_seated(self, now_ns: int) -> None:
        seated = self._sequences.seated
        while seated:
            self._advance(seated.pop(), now_ns)
