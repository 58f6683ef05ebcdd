"""Requests as schedulers see them, made by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from backends.config import ModelConfig
from backends.tensors import Tensor
from backends.worker.frames import heads
from backends.worker.messages import Infer
from backends.worker.scheduling.scheduler import Batch, Entry, Scheduler

MS = 1_000_000
_ids = count(1)


def config(max_batch_size: int = 8, *, dims: tuple[int, ...] = (1,), **fields: Any) -> ModelConfig:
    fields.setdefault("input", [{"name": "X", "data_type": "TYPE_INT32", "dims": dims}])
    return msgspec.convert({"name": "m", "backend": "python", "max_batch_size": max_batch_size} | fields, ModelConfig)


def entry(
    name: str = "", now_ns: int = 0, *, rows: int = 1, shapes: dict[str, tuple[int, ...]] | None = None, **asked: Any
) -> Entry:
    """A request of this id whose inputs (X, of one element a row, unless `shapes` says else) are zeros."""
    shapes = {"X": (1,)} if shapes is None else shapes
    tensors = [Tensor(name, "INT32", (rows, *shape), bytes(4 * rows)) for name, shape in shapes.items()]
    infer = Infer(next(_ids), "m", 1, name, heads(tensors), [], **asked)
    return Entry(infer, tensors, rows, now_ns)


def add(scheduler: Scheduler, now_ns: int, *names: str, **how: Any) -> list[Entry]:
    """Add a request of each name, all of them arriving now."""
    entries = [entry(name, now_ns, **how) for name in names]
    for added in entries:
        scheduler.add(added, now_ns)
    return entries


def names(batch: Batch | None) -> str | None:
    """The ids of a batch's requests, joined."""
    return batch and "".join(entry.infer.request_id for entry in batch.entries)
