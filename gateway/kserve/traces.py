"""Traces of inferences, as Triton writes them: when each began what, and its tensors, as JSON in files.

Where no file was named at the start nothing is ever traced, and what stands here costs a request nothing: `NoTracer`
gives out the one trace that keeps nothing.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from backends.config import ModelConfig
from backends.tensors import Tensor
from backends.trace import Trace
from gateway.kserve import trace_tensors
from gateway.kserve.shared_state import SharedState
from gateway.kserve.trace_settings import settings_of

_OFF = ["OFF"]
_MOST_KEPT = 10_000
"""Traces, where they would be written at the end alone."""
_MOST_KEPT_CHARACTERS = 16 * 1024 * 1024
"""Of tensors as text, before a file is written whatever was asked for."""
_MOST_TENSOR_BYTES = 64 * 1024
"""Of the tensors of one trace, which are written in the loop: 5 to 20 ms."""


class Traced(Protocol):
    """What the front end tells of one request, from before it reaches its model until its answer has gone out."""

    inner: Trace | None
    """Goes with the request to whoever serves it; None where it is not traced."""

    def answering(self) -> None:
        """The answer is there, and is sent from now on."""
        ...

    def end(self) -> None:
        """Nothing more will be told; harmless after the first time."""
        ...


class Untraced:
    """Keeps nothing."""

    inner: Trace | None = None

    def answering(self) -> None:
        pass

    def end(self) -> None:
        pass


UNTRACED: Traced = Untraced()


@dataclass(slots=True)
class Record:
    """All that is written of one request and of what was asked for it. `characters` are those of its tensors."""

    events: list[dict[str, Any]] = field(default_factory=list)
    characters: int = 0
    room_bytes: int = _MOST_TENSOR_BYTES


class Span:
    """What happened to one request, or to what an ensemble asked for it (`backends.trace.Trace`).

    What its model was given, gave and when it worked is written in Triton's order, which is not that of being told.
    """

    def __init__(self, log: TraceLog, config: ModelConfig, levels: Sequence[str], parent: Span | None = None) -> None:
        self._log = log
        self._levels = levels
        self._tensors: list[dict[str, Any]] = []
        self._times = 0, 0, 0
        self._has_ended = False
        self.id = log.next_id()
        self.record: Record = Record() if parent is None else parent.record
        head = {"id": self.id, "model_name": config.name, "model_version": config.version}
        if "TIMESTAMPS" in levels:
            self.record.events.append(head if parent is None else {**head, "parent_id": parent.id})

    def mark(self, activity: str, ns: int = 0) -> None:
        if "TIMESTAMPS" in self._levels:
            moment = {"name": activity, "ns": ns or time.monotonic_ns()}
            self.record.events.append({"id": self.id, "timestamps": [moment]})

    def child(self, config: ModelConfig) -> Span:
        child = Span(self._log, config, self._levels, self)
        child.mark("REQUEST_START")
        return child

    def queued(self, inputs: Sequence[Tensor]) -> None:
        self._tell("TENSOR_QUEUE_INPUT", inputs)

    def answered(self, outputs: Sequence[Tensor]) -> None:
        self._tell("TENSOR_BACKEND_OUTPUT", outputs)

    def worked(self, queued_ns: int, began_ns: int, ended_ns: int) -> None:
        self._times = queued_ns, began_ns, ended_ns

    def finish(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        queued_ns, began_ns, ended_ns = self._times
        if queued_ns:
            self.mark("QUEUE_START", queued_ns)
        self.record.events += self._tensors
        if began_ns:  # a refused one never began
            for activity, ns in (
                ("COMPUTE_START", began_ns),
                ("COMPUTE_INPUT_END", began_ns),
                ("COMPUTE_OUTPUT_START", ended_ns),
                ("COMPUTE_END", ended_ns),
            ):
                self.mark(activity, ns)
        self.mark("REQUEST_END", ended_ns)

    def _tell(self, activity: str, tensors: Sequence[Tensor]) -> None:
        if "TENSORS" not in self._levels:
            return
        record = self.record
        for tensor in tensors:
            event = trace_tensors.event(self.id, activity, tensor, record.room_bytes)
            record.room_bytes = max(0, record.room_bytes - tensor.size_bytes)
            record.characters += len(event["tensor"]["data"])
            self._tensors.append(event)


class _Request:
    """A request that is traced. `received` and `sent` are what Triton calls the front end's two activities."""

    def __init__(
        self, log: TraceLog, config: ModelConfig, levels: Sequence[str], received: str, sent: str, began_ns: int
    ) -> None:
        self._log = log
        self._sent = sent
        self._span = Span(log, config, levels)
        self.inner: Trace | None = self._span
        self._span.mark(f"{received}_START", began_ns)
        self._span.mark(f"{received}_END")
        self._span.mark("REQUEST_START")
        self._is_answering = self._has_ended = False

    def answering(self) -> None:
        if not self._is_answering:
            self._is_answering = True
            self._span.finish()
            self._span.mark("INFER_RESPONSE_COMPLETE")
            self._span.mark(f"{self._sent}_START")

    def end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self._is_answering:
            self._span.mark(f"{self._sent}_END")
        self._span.finish()
        self._log.add(self._span.record)


class TraceLog:
    """Traces that ended, written to new files: after each so many, and what is left at the end.

    A file is written in the loop's thread: it is small, and whoever traces wants to see, not to be fast.
    """

    def __init__(self, path: Path) -> None:
        self.frequency = 0
        """After how many traces a file is written; 0: at the end alone."""
        self._path = path
        self._ids = itertools.count(1)
        self._numbers = itertools.count()
        self._events: list[dict[str, Any]] = []
        self._count = 0
        self._characters = 0

    def next_id(self) -> int:
        return next(self._ids)

    def add(self, record: Record) -> None:
        """A trace has ended."""
        self._events += record.events
        self._count += 1
        self._characters += record.characters
        if self._count >= (self.frequency or _MOST_KEPT) or self._characters >= _MOST_KEPT_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what there is. A file that is there, of another process or an earlier life, is left alone."""
        if not self._events:
            return
        text = msgspec.json.encode(self._events)
        self._events, self._count, self._characters = [], 0, 0
        names = (self._path.with_name(f"{self._path.name}.{number}") for number in self._numbers)
        for path in names if self.frequency else itertools.chain([self._path], names):
            try:
                with path.open("xb") as file:
                    file.write(text)
            except FileExistsError:
                continue
            return


class NoTracer:
    """Traces nothing."""

    is_on = False

    def begin(self, config: ModelConfig, received: str, sent: str, began_seconds: float = 0.0) -> Traced:  # noqa: ARG002  # the tracer's
        return UNTRACED

    def close(self) -> None:
        pass


class Tracer:
    """Chooses the requests that are traced, by the settings of now (`trace_settings.py`), in this server process."""

    def __init__(self, state: SharedState, path: Path) -> None:
        self._state = state
        self._log = TraceLog(path)
        self._seen: Counter[str] = Counter()

    @property
    def is_on(self) -> bool:
        """Whether a request may be traced now."""
        traces = self._state.read().traces
        return any(settings_of(self._state, name)["trace_level"] != _OFF for name in ("", *traces))

    def begin(self, config: ModelConfig, received: str, sent: str, began_seconds: float = 0.0) -> Traced:
        """A request has been read, which came at `began_seconds` of the monotonic clock, by default now."""
        settings = settings_of(self._state, config.name)
        levels = settings["trace_level"]
        if levels == _OFF:
            return UNTRACED
        group = config.name if config.name in self._state.read().traces else ""
        self._seen[group] += 1
        if self._seen[group] % max(1, int(settings["trace_rate"])) or not self._is_left(config.name):
            return UNTRACED
        self._log.frequency = int(settings["log_frequency"])
        return _Request(self._log, config, levels, received, sent, int(began_seconds * 1e9))

    def close(self) -> None:
        self._log.flush()

    def _is_left(self, model: str) -> bool:
        """Take one of the traces that are still wanted; those of all server processes count."""
        if settings_of(self._state, model)["trace_count"] == "-1":
            return True
        with self._state.changing() as document:
            group = model if "trace_count" in document.traces.get(model, {}) else ""
            left = int(settings_of(self._state, group)["trace_count"])
            if left > 0:
                document.traces.setdefault(group, {})["trace_count"] = str(left - 1)
        return left > 0


def tracer(state: SharedState) -> Tracer | NoTracer:
    """The tracer of a server process: none where no file was named at the start."""
    path = settings_of(state)["trace_file"]
    return Tracer(state, Path(path)) if path else NoTracer()
