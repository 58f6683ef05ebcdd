"""Which sequences of requests an instance serves: each keeps its place in one from its first request to its last.

Triton's sequence batcher: a sequence begins with a request that says so, takes the lowest slot that is free in any
instance, else waits in the backlog for one, and gives it up after its end or when it has been idle for too long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.tensors import Tensor
from backends.worker.scheduling.controls import Controls, Id, states_of
from backends.worker.scheduling.scheduler import Entry

DEFAULT_IDLE_US = 1_000_000
"""How long a sequence may be idle where its model's configuration does not say."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Requests of one correlation id, in their order. `entries` are those that wait for the one before them."""

    id: Id
    ids: list[Tensor]
    touched_ns: int
    entries: deque[Entry] = field(default_factory=deque)
    states: list[Tensor] = field(default_factory=list)
    instance: int = -1
    """-1: it waits in the backlog."""
    slot: int = -1
    running: int = 0
    is_open: bool = True
    """Its last request has not come yet."""

    @property
    def is_over(self) -> bool:
        return not (self.is_open or self.entries or self.running)


class Sequences:
    """The sequences of one model, and the slots of its instances.

    `slots[instance]` has what sits in each. `seated` are those that may have got on and were not looked at since,
    `failed` the requests that cannot run any more; whoever schedules empties both. `waiting` counts their entries.
    `states` are what the model keeps of each, None where it keeps nothing.
    """

    def __init__(self, config: ModelConfig, controls: Controls, instances: int, slots: int) -> None:
        """Raises `InvalidRequest` where the initial states cannot be read."""
        assert config.sequence_batching is not None
        self.states = states_of(config)
        self._model = config.name
        self._controls = controls
        self._idle_ns = 1000 * (config.sequence_batching.max_sequence_idle_microseconds or DEFAULT_IDLE_US)
        self._is_iterative = config.sequence_batching.iterative_sequence
        self._serial_id = 0
        self._open: dict[Id, Sequence] = {}
        self._lost: dict[Id, int] = {}
        self._free: list[tuple[int, int]] = []
        self._alive: set[int] = set()
        self._backlog: deque[Sequence] = deque()
        self._due: list[tuple[int, int, Sequence]] = []
        self._serial = 0
        self.slots: list[list[Sequence | None]] = [[None] * slots for _ in range(instances)]
        self.seated: list[Sequence] = []
        self.failed: list[tuple[Entry, InferenceError]] = []
        self.waiting = 0

    def add(self, entry: Entry, now_ns: int) -> Sequence:
        """Put an entry at the end of its sequence. Raises `InferenceError` where it belongs to none."""
        infer = entry.infer
        if self._is_iterative and not infer.sequence_id:
            self._serial_id += 1
            infer.sequence_id, infer.sequence_start = self._serial_id, True
        sequence_id = infer.sequence_id
        if not sequence_id:
            raise self._refusal(f"to model '{self._model}' must specify a non-zero or non-empty correlation ID")
        if entry.rows != 1:
            raise self._refusal(
                f"to model '{self._model}' must specify batch-size 1 due to requirements of sequence batcher"
            )
        sequence = self._open.get(sequence_id)
        if sequence is not None and self._is_idle(sequence, now_ns):
            self._close(sequence)
            self.leave(sequence)
            sequence = None
        if sequence is None:
            sequence = self._begin(entry, now_ns)
        if infer.sequence_end or self._is_iterative:
            self._close(sequence)
        sequence.touched_ns = now_ns
        sequence.entries.append(entry)
        entry.sequence = entry.place = sequence
        entry.is_waiting = True
        self.waiting += 1
        return sequence

    def again(self, entry: Entry, now_ns: int) -> None:
        """Put an entry that its model wants once more at the end of its sequence; it is not the first any more."""
        entry.queued_ns = now_ns
        infer = entry.infer
        infer.sequence_start = False
        infer.inputs = infer.inputs[: len(entry.tensors)]
        sequence: Sequence = entry.sequence
        sequence.entries.append(entry)
        entry.place = sequence
        entry.is_waiting = True
        self.waiting += 1

    def next(self, sequence: Sequence) -> Entry:
        """Its next entry, which waits no more."""
        entry = sequence.entries.popleft()
        entry.is_waiting = False
        self.waiting -= 1
        return entry

    def dress(self, entry: Entry) -> list[Tensor]:
        """Give an entry's message its control inputs and its sequence's states; returns all tensors of it."""
        sequence: Sequence = entry.sequence
        if self.states is not None and entry.infer.sequence_start:
            sequence.states = self.states.initial
        return self._controls.dress(entry, sequence.ids, sequence.states)

    def cancel(self, entry: Entry) -> None:
        """An entry that has not run is not wanted. Without its first request a sequence cannot go on."""
        sequence: Sequence = entry.sequence
        entries = sequence.entries
        if entry.infer.sequence_start:
            self._close(sequence)
            while entries and entries[-1] is not entry:
                self._fail(entries.pop(), self._unknown(sequence.id))
        if entry.place is sequence:
            entries.remove(entry)
            self.waiting -= 1
        entry.is_waiting = False
        entry.tensors = []
        self.seated.append(sequence)
        if sequence.is_over:
            self.leave(sequence)

    def touch(self, sequence: Sequence, now_ns: int) -> None:
        """A request of it has run: it is idle from now on, or over."""
        sequence.running = 0
        sequence.touched_ns = now_ns
        if sequence.is_over:
            self.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Give up its slot, where it has one, to the first in the backlog."""
        instance, slot = sequence.instance, sequence.slot
        if instance >= 0:
            sequence.instance = -1
            self.slots[instance][slot] = None
            heappush(self._free, (slot, instance))
            self._seat()

    def arrive(self, instance: int) -> None:
        """An instance can work: its slots are free."""
        if instance not in self._alive:
            self._alive.add(instance)
            for slot in range(len(self.slots[instance])):
                heappush(self._free, (slot, instance))
            self._seat()

    def lose(self, instance: int, now_ns: int) -> None:
        """An instance is gone, and its sequences with it: their requests fail, those to come as well."""
        self._alive.discard(instance)
        self._free = [place for place in self._free if place[1] != instance]
        heapify(self._free)
        self._lost = {sequence_id: until_ns for sequence_id, until_ns in self._lost.items() if until_ns > now_ns}
        slots = self.slots[instance]
        for slot, sequence in enumerate(slots):
            if sequence is None:
                continue
            slots[slot] = None
            sequence.instance = -1
            if sequence.is_open:
                self._close(sequence)
                self._lost[sequence.id] = now_ns + self._idle_ns
            while sequence.entries:
                self._fail(self.next(sequence), self._loss(sequence.id))

    def forsake(self, entry: Entry) -> None:
        """An entry was with an instance that is gone, and so is its sequence."""
        self.failed.append((entry, self._loss(entry.infer.sequence_id)))

    def take_failed(self) -> list[tuple[Entry, InferenceError]]:
        """What has failed, which is told once."""
        failed, self.failed = self.failed, []
        return failed

    def expire(self, now_ns: int) -> None:
        """Sequences that were idle for too long give up their slots."""
        due = self._due
        while due and due[0][0] <= now_ns:
            sequence = heappop(due)[2]
            if sequence.instance < 0:
                continue
            if not self._is_idle(sequence, now_ns):
                self._watch(sequence, now_ns)
                continue
            self._close(sequence)
            self.leave(sequence)

    def wake_at(self) -> int | None:
        """When the next sequence may have been idle for too long."""
        due = self._due
        while due and due[0][2].instance < 0:
            heappop(due)
        return due[0][0] if due else None

    def _begin(self, entry: Entry, now_ns: int) -> Sequence:
        sequence_id = entry.infer.sequence_id
        lost_until_ns = self._lost.pop(sequence_id, 0) if self._lost else 0
        if not entry.infer.sequence_start:
            if lost_until_ns > now_ns:
                self._lost[sequence_id] = lost_until_ns
                raise self._loss(sequence_id)
            raise self._unknown(sequence_id)
        sequence = Sequence(sequence_id, self._controls.ids(sequence_id), now_ns)
        self._open[sequence_id] = sequence
        self._backlog.append(sequence)
        self._seat()
        return sequence

    def _seat(self) -> None:
        while self._free and self._backlog:
            sequence = self._backlog.popleft()
            if sequence.is_over:
                continue
            sequence.slot, sequence.instance = heappop(self._free)
            self.slots[sequence.instance][sequence.slot] = sequence
            self.seated.append(sequence)
            self._serial += 1
            heappush(self._due, (sequence.touched_ns + self._idle_ns, self._serial, sequence))

    def _watch(self, sequence: Sequence, now_ns: int) -> None:
        self._serial += 1
        due_ns = max(sequence.touched_ns, now_ns if sequence.running or sequence.entries else 0) + self._idle_ns
        heappush(self._due, (due_ns, self._serial, sequence))

    def _is_idle(self, sequence: Sequence, now_ns: int) -> bool:
        if sequence.instance < 0 or sequence.running or sequence.entries:
            return False
        return now_ns - sequence.touched_ns >= self._idle_ns

    def _close(self, sequence: Sequence) -> None:
        if sequence.is_open:
            sequence.is_open = False
            del self._open[sequence.id]

    def _fail(self, entry: Entry, error: InferenceError) -> None:
        if entry.is_waiting:
            entry.is_waiting = False
            self.waiting -= 1
        entry.tensors = []
        self.failed.append((entry, error))

    def _loss(self, sequence_id: Id) -> InferenceError:
        """What is said to requests of a sequence whose instance died."""
        return InferenceError(
            f"sequence {sequence_id} of model '{self._model}' was lost with the instance that served it;"
            " begin it again with the START flag",
            Code.UNAVAILABLE,
        )

    def _unknown(self, sequence_id: Id) -> InferenceError:
        return self._refusal(
            f"for sequence {sequence_id} to model '{self._model}' must specify the START flag on the first request"
            " of the sequence"
        )

    def _refusal(self, text: str) -> InferenceError:
        return InferenceError(f"inference request {text}", Code.INVALID_ARG)
