"""The words of scheduling: an entry that waits, a batch that runs, and what every scheduler of a worker offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from backends.errors import InferenceError
from backends.tensors import Tensor
from backends.worker.messages import Infer


@dataclass(slots=True, eq=False)
class Entry:
    """A request in a worker: what was asked, its tensors in the order of the message's heads, and whose it is.

    `rows` is the first dimension of its inputs, 1 where `max_batch_size` is 0. `owner` is the host's own. Whoever sets
    `is_cancelled` (`Scheduler.cancel` does) has an entry that waits skipped.
    """

    infer: Infer
    tensors: list[Tensor]
    rows: int
    arrived_ns: int
    owner: Any = None
    is_cancelled: bool = False
    cost: int = 0
    """Tokens of its longest row, 0 where the scheduler is to tell from the shapes."""
    queued_ns: int = 0
    """When its turn could have come at the earliest: delays and timeouts count from here."""
    is_waiting: bool = False
    is_late: bool = False
    """Its timeout passed, and it may wait all the same."""
    place: Any = None
    """Where it waits, or waited last: the scheduler's own, as the next."""
    ticket: Any = None
    sequence: Any = None
    kinship: Any = None
    """What entries must have in common to share a batch, once somebody asked."""


@dataclass(slots=True, eq=False)
class Batch:
    """What an instance is to run now: `Execute(batch.messages)` with `batch.tensors` as its payload.

    Messages and tensors are the entries' own with what the model's configuration adds. A message without a request of
    its own (it fills an empty slot) has the id 0: what is answered to it goes nowhere.
    """

    entries: list[Entry]
    messages: list[Infer]
    tensors: list[Tensor]
    rows: int = 0
    slots: list[Any] = field(default_factory=list)
    """The sequence scheduler's own."""


class Ordering(Protocol):
    """Answers leave in the order in which their requests came (`preserve_ordering`)."""

    def admit(self, entry: Entry) -> None:
        """The next to come; its scheduler says so."""
        ...

    def release(self, entry: Entry, answer: Any, final: bool) -> list[tuple[Entry, Any]]:
        """What may leave now that this answer to an entry is there; every entry that was added needs a final one."""
        ...


class States(Protocol):
    """Tensors that a model keeps with a sequence (Triton's implicit state)."""

    def keep(self, entry: Entry, outputs: list[Tensor]) -> list[Tensor]:
        """Keep the states among an answer's outputs for the sequence's next request; return the others."""
        ...


class Scheduler(Protocol):
    """Which requests of a model run together, when and where. Instances are numbered from 0; clocks are the caller's.

    The host asks `take` for each idle instance after `add`, `done`, `cancel`, `expired` and at `wake_at`.
    """

    ordering: Ordering | None
    """None where answers may leave as they come."""
    states: States | None
    """None where the model keeps no states."""

    @property
    def waiting(self) -> int:
        """How many entries wait, those who left not among them."""
        ...

    def add(self, entry: Entry, now_ns: int) -> None:
        """Let an entry wait for its turn. Raises `InferenceError` where it is refused at once."""
        ...

    def take(self, instance: int, now_ns: int) -> Batch | None:
        """What this instance, which is idle, should run now; None: nothing yet."""
        ...

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        """The instance has run its batch: it, and the sequences of the batch, may go on."""
        ...

    def lost(self, instance: int, now_ns: int) -> None:
        """The instance is gone with all that it had; the host answers what it ran. Another of its number may come."""
        ...

    def retry(self, entry: Entry, now_ns: int) -> None:
        """Let an entry that was taken wait again, before all others of its priority."""
        ...

    def again(self, entry: Entry, now_ns: int) -> None:
        """The model wants an entry in another batch: called before `done` of the one that it was in."""
        ...

    def cancel(self, entry: Entry) -> bool:
        """Nobody wants this entry any more. True: it waited and never will run; False: it was taken already."""
        ...

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        """Entries that may not wait any longer; they are not waiting any more."""
        ...

    def wake_at(self) -> int | None:
        """When to ask `expired` and `take` again if nothing happens before."""
        ...
