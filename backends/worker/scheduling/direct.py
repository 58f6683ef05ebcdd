"""Sequence batching by slots: a batch has one place for each sequence of the instance, always the same one.

Triton's `direct` strategy. A slot before the last one in use whose sequence has nothing to run is filled with a request
that is not ready, so that a model may keep what it knows of a sequence by its row.
"""

from __future__ import annotations

from backends.config import ModelConfig, SequenceBatching
from backends.errors import InferenceError
from backends.tensors import Tensor
from backends.worker.messages import Infer
from backends.worker.scheduling.controls import Controls
from backends.worker.scheduling.kinship import are_kin, kinship_of
from backends.worker.scheduling.scheduler import Batch, Entry, Ordering, States
from backends.worker.scheduling.sequences import Sequence, Sequences


class Direct:
    """Batches of slots; `minimum_slot_utilization` and `max_queue_delay_microseconds` may have one wait for more."""

    def __init__(self, config: ModelConfig, batching: SequenceBatching, instances: int) -> None:
        """Raises `InvalidRequest` where the initial states cannot be read."""
        self.ordering: Ordering | None = None
        self._slots = max(1, config.max_batch_size)
        self._controls = Controls(config)
        self._sequences = Sequences(config, self._controls, instances, self._slots)
        self.states: States | None = self._sequences.states
        self._kinship = kinship_of(config)
        direct = batching.direct
        self._least = self._slots * direct.minimum_slot_utilization if direct is not None else 0.0
        self._delay_ns = 1000 * direct.max_queue_delay_microseconds if direct is not None else 0
        self._holds: dict[int, int] = {}
        self._is_iterative = batching.iterative_sequence

    @property
    def waiting(self) -> int:
        return self._sequences.waiting

    def add(self, entry: Entry, now_ns: int) -> None:
        entry.queued_ns = now_ns
        self._sequences.add(entry, now_ns)

    def take(self, instance: int, now_ns: int) -> Batch | None:
        sequences = self._sequences
        sequences.arrive(instance)
        sequences.seated.clear()
        self._holds.pop(instance, None)
        slots = enumerate(sequences.slots[instance])
        ready = {slot: sequence for slot, sequence in slots if sequence is not None and sequence.entries}
        if not ready:
            return None
        if self._delay_ns and len(ready) < self._least:
            until_ns = self._delay_ns + min(sequence.entries[0].queued_ns for sequence in ready.values())
            if now_ns < until_ns:
                self._holds[instance] = until_ns
                return None
        return self._batch(ready)

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        del instance
        for sequence in batch.slots:
            self._sequences.touch(sequence, now_ns)

    def lost(self, instance: int, now_ns: int) -> None:
        self._holds.pop(instance, None)
        self._sequences.lose(instance, now_ns)

    def retry(self, entry: Entry, now_ns: int) -> None:
        del now_ns
        self._sequences.forsake(entry)

    def again(self, entry: Entry, now_ns: int) -> None:
        self._sequences.again(entry, now_ns)

    def cancel(self, entry: Entry) -> bool:
        entry.is_cancelled = True
        if not entry.is_waiting:
            return False
        self._sequences.cancel(entry)
        return True

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        self._sequences.expire(now_ns)
        return self._sequences.take_failed()

    def wake_at(self) -> int | None:
        if self._sequences.failed:
            return 0
        times = list(self._holds.values())
        idle_ns = self._sequences.wake_at()
        if idle_ns is not None:
            times.append(idle_ns)
        return min(times, default=None)

    def _batch(self, ready: dict[int, Sequence]) -> Batch:
        """The next request of each sequence that is ready, in its slot; those of another shape than the first wait."""
        sequences = self._sequences
        first = next(iter(ready.values())).entries[0]
        first_tensors = first.tensors
        if self._kinship is not None:
            kinship = self._kinship
            ready = {slot: one for slot, one in ready.items() if are_kin(kinship, first, one.entries[0])}
        entries: list[Entry] = []
        messages: list[Infer] = []
        tensors: list[Tensor] = []
        for slot in range(max(ready) + 1):
            sequence = ready.get(slot)
            if sequence is None:
                message, its_tensors = self._controls.fill(first.infer, first_tensors)
            else:
                entry = sequences.next(sequence)
                message, its_tensors = entry.infer, sequences.dress(entry)
                entries.append(entry)
                sequence.running = 1
            messages.append(message)
            tensors.extend(its_tensors)
        for sequence in ready.values():
            # The next of the backlog may have the slot at once: the instance is busy until the last one has run.
            if not (sequence.is_open or sequence.entries or self._is_iterative):
                sequences.leave(sequence)
        return Batch(entries, messages, tensors, len(messages), list(ready.values()))
