"""What scheduling costs: CPU time of one request through a scheduler, `add` to `done`.

    python -m tests.bench.batching [--requests 100000]

`one`: each request runs alone, at once. `full`: as many wait as fill a batch. `held`: batches of 32 that wait for a
delay, asked about after every request. `deep`: 1000 wait already. A sequence is of one request or of all of them.
Exits with 1 when a request costs more than 3 µs without batching, or than 5 µs with it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from typing import Any

import msgspec

from backends.config import ModelConfig
from backends.tensors import Tensor
from backends.worker.frames import heads
from backends.worker.messages import Infer
from backends.worker.scheduling.batcher import Entry, Scheduler, scheduler_for

_LIMITS_US = {False: 3.0, True: 5.0}
_WHOLE = {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
_FIXED: dict[str, Any] = {"input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [16]}]}
_FREE: dict[str, Any] = {"input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}]}
_CONTROLS = [
    {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "int32_false_true": [0, 1]}]},
    {"name": "READY", "control": [{"kind": "CONTROL_SEQUENCE_READY", "int32_false_true": [0, 1]}]},
]
_HELD = {"max_queue_delay_microseconds": 1_000_000, "preferred_batch_size": [32]}
_OLDEST = {"max_candidate_sequences": 4}
_POLICY = {"default_timeout_microseconds": 1_000_000, "max_queue_size": 100_000}
_CASES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("no batcher", _FIXED, "one", False),
    ("no batcher", _FIXED, "deep", False),
    ("dynamic", _FIXED | {"dynamic_batching": {}}, "one", True),
    ("dynamic", _FIXED | {"dynamic_batching": {}}, "full", True),
    ("dynamic", _FIXED | {"dynamic_batching": {}}, "deep", True),
    ("dynamic, delay", _FIXED | {"dynamic_batching": _HELD}, "held", True),
    ("dynamic, shapes", _FREE | {"dynamic_batching": {}}, "full", True),
    ("dynamic, timeouts", _FIXED | {"dynamic_batching": {"default_queue_policy": _POLICY}}, "full", True),
    ("dynamic, order", _FIXED | {"dynamic_batching": {"preserve_ordering": True}}, "full", True),
    ("tokens", _FREE | {"dynamic_batching": {}, "parameters": {"max_batch_tokens": "512"}}, "full", True),
    ("sequences of one", _FIXED | {"sequence_batching": {"control_input": _CONTROLS}}, "one", True),
    ("one sequence", _FIXED | {"sequence_batching": {"control_input": _CONTROLS}}, "going", True),
    ("one sequence, oldest", _FIXED | {"sequence_batching": {"oldest": _OLDEST}}, "going", True),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    requests = parser.parse_args().requests
    is_slow = False
    for name, fields, how, batches in _CASES:
        described = {"name": "m", "backend": "python", "max_batch_size": 32} | fields
        config = msgspec.convert(described, ModelConfig)
        cost_us = min(_measure(config, how, requests) for _ in range(3))
        mark = "" if cost_us <= _LIMITS_US[batches] else f"  over {_LIMITS_US[batches]} µs"
        is_slow = is_slow or bool(mark)
        print(f"{name:20} {how:6} {cost_us:6.2f} µs a request{mark}")
    return int(is_slow)


def _measure(config: ModelConfig, how: str, requests: int) -> float:
    """Microseconds a request, entries made beforehand: making them is the host's part."""
    scheduler = scheduler_for(config, 1)
    asked = _WHOLE if config.sequence_batching is not None else {}
    if how == "going":
        asked = {"sequence_id": 1}
        _run(scheduler, 0)
        scheduler.add(_entry(asked | {"sequence_start": True}), 0)
    entries = [_entry(asked) for _ in range(requests)]
    if how == "deep":
        for entry in (_entry(asked) for _ in range(1000)):
            scheduler.add(entry, 0)
    ordering = scheduler.ordering
    together = 32 if how == "full" else 1
    began = time.process_time()
    gc.disable()
    for start in range(0, requests, together):
        for entry in entries[start : start + together]:
            scheduler.add(entry, start)
            if how == "held":
                _run(scheduler, start)
        _run(scheduler, start)
        if ordering is not None:
            for entry in entries[start : start + together]:
                ordering.release(entry, None, True)
    gc.enable()
    return (time.process_time() - began) / requests * 1e6


def _run(scheduler: Scheduler, now_ns: int) -> None:
    batch = scheduler.take(0, now_ns)
    if batch is not None:
        scheduler.done(0, batch, now_ns)
    scheduler.wake_at()


def _entry(asked: dict[str, Any]) -> Entry:
    tensors = [Tensor("X", "FP32", (1, 16), bytes(64))]
    return Entry(Infer(1, "m", 1, "", heads(tensors), [], **asked), tensors, 1, 0)


if __name__ == "__main__":
    sys.exit(main())
