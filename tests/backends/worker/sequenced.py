"""Models with sequences, and what their schedulers put into a batch, told in short."""

from __future__ import annotations

import struct
from typing import Any

from backends.tensors import Tensor
from backends.worker.scheduling.batcher import Batch, Entry, Scheduler, scheduler_for
from tests.backends.worker.scheduled import config, entry

CONTROLS = [
    {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "int32_false_true": [0, 1]}]},
    {"name": "READY", "control": [{"kind": "CONTROL_SEQUENCE_READY", "fp32_false_true": [0, 1]}]},
    {"name": "END", "control": [{"kind": "CONTROL_SEQUENCE_END", "bool_false_true": [False, True]}]},
    {"name": "CORRID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_UINT64"}]},
]
IDLE_US = 1_000_000


def scheduler(max_batch_size: int = 4, instances: int = 1, *, ready: bool = True, **batching: Any) -> Scheduler:
    """One whose instances are all there, unless they are not `ready`."""
    batching = {"control_input": CONTROLS, "max_sequence_idle_microseconds": IDLE_US} | batching
    fields = {key: batching.pop(key) for key in ("input", "output", "path") if key in batching}
    made = scheduler_for(config(max_batch_size, sequence_batching=batching, **fields), instances)
    for instance in range(instances if ready else 0):
        assert made.take(instance, 0) is None
    return made


def asked(name: str, now_ns: int = 0, **how: Any) -> Entry:
    """A request of the sequence that its name's letter stands for (a: 1); `a!` begins it, `a.` ends it."""
    letter = name[0]
    return entry(
        name,
        now_ns,
        sequence_id=how.pop("sequence_id", ord(letter) - ord("a") + 1),
        sequence_start="!" in name,
        sequence_end="." in name,
        **how,
    )


def add(scheduler: Scheduler, now_ns: int, *names: str, **how: Any) -> list[Entry]:
    entries = [asked(name, now_ns, **how) for name in names]
    for added in entries:
        scheduler.add(added, now_ns)
    return entries


def seen(batch: Batch | None) -> str | None:
    """The rows of a batch as its model sees them: ids of requests, `-` where a row is not ready."""
    if batch is None:
        return None
    shown = []
    tensors = iter(batch.tensors)
    for message in batch.messages:
        given = {head.name: next(tensors) for head in message.inputs}
        name = message.request_id if message.id else "-"
        assert value(given["READY"]) == (name != "-")
        assert value(given["START"]) == ("!" in name)
        assert value(given["END"]) == ("." in name)
        assert value(given["CORRID"]) == (message.sequence_id or 0)
        shown.append(name)
    assert next(tensors, None) is None
    return " ".join(shown)


def value(tensor: Tensor) -> float:
    form = {"INT32": "<i", "FP32": "<f", "BOOL": "<?", "UINT64": "<Q", "INT64": "<q", "UINT32": "<I"}[tensor.datatype]
    return struct.unpack(form, tensor.data)[0]


def run(scheduler: Scheduler, now_ns: int = 0, instance: int = 0) -> str | None:
    """Take a batch, run it, and tell what was in it."""
    batch = scheduler.take(instance, now_ns)
    shown = seen(batch)
    if batch is not None:
        scheduler.done(instance, batch, now_ns)
    return shown
