"""The statistics of one model, counted as Triton counts them."""

from __future__ import annotations

import time
from enum import StrEnum

from backends.statistics import BatchStatistics, ModelStatistics
from backends.worker.messages import Executed
from backends.worker.scheduling.scheduler import Batch, Entry


class Reason(StrEnum):
    """Why a request failed, in Triton's words."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


class Counters:
    """Counts events as they happen. Durations are in nanoseconds.

    A request that the model itself answers with an error is a success: it was executed. One that was answered from the
    cache is a success without execution. Every execution counts in its batch size, also one that failed.
    """

    def __init__(self, *, has_quantiles: bool = False) -> None:
        self.statistics = ModelStatistics(recent={} if has_quantiles else None)

    def executed(self, batch: Batch, began_ns: int, ended_ns: int, executed: Executed) -> None:
        """A batch was run."""
        statistics = self.statistics
        stats = statistics.inference_stats
        entries = batch.entries
        count = len(entries)
        arrived_ns = sum(entry.arrived_ns for entry in entries)
        rows = sum(entry.rows for entry in entries)
        statistics.last_inference_ms = time.time_ns() // 1_000_000
        statistics.execution_count += 1
        # Empty slots of a batch of sequences are rows of it, though nobody asked for them.
        batches = statistics.batch_stats.get(batch.rows)
        if batches is None:
            batches = statistics.batch_stats[batch.rows] = BatchStatistics()
        batches.compute_input.add(executed.compute_input_ns)
        batches.compute_infer.add(executed.compute_infer_ns)
        batches.compute_output.add(executed.compute_output_ns)
        if executed.failed:
            stats.fail.add(count * ended_ns - arrived_ns, count)
            self._count_failures(Reason.BACKEND, count)
            return
        statistics.inference_count += rows
        stats.success.add(count * ended_ns - arrived_ns, count)
        stats.queue.add(count * began_ns - arrived_ns, count)
        stats.compute_input.add(count * executed.compute_input_ns, count)
        stats.compute_infer.add(count * executed.compute_infer_ns, count)
        stats.compute_output.add(count * executed.compute_output_ns, count)
        if statistics.recent is not None:
            self._remember(batch, began_ns, ended_ns, executed)

    def failed(self, entry: Entry, now_ns: int, reason: Reason) -> None:
        """A request came to nothing without an execution that was counted."""
        self.statistics.inference_stats.fail.add(now_ns - entry.arrived_ns)
        self._count_failures(reason, 1)

    def hit(self, ns: int) -> None:
        """A request was answered from the cache, which took so long."""
        self.statistics.last_inference_ms = time.time_ns() // 1_000_000
        stats = self.statistics.inference_stats
        self.statistics.cache.lookup.add(ns)
        stats.cache_hit.add(ns)
        stats.success.add(ns)
        stats.queue.add(0)
        if self.statistics.recent is not None:
            self.statistics.remember(time.monotonic_ns(), {"cache_hit": ns, "success": ns, "queue": 0})

    def missed(self, ns: int) -> None:
        """The cache was looked into in vain."""
        self.statistics.cache.lookup.add(ns)
        self.statistics.inference_stats.cache_miss.add(ns)

    def inserted(self, ns: int, lookup_ns: int) -> None:
        """An answer was put into the cache: part of what the miss cost, beside the lookup."""
        self.statistics.cache.insertion.add(ns)
        self.statistics.inference_stats.cache_miss.add(ns, 0)
        if self.statistics.recent is not None:
            self.statistics.remember(time.monotonic_ns(), {"cache_miss": lookup_ns + ns})

    def _remember(self, batch: Batch, began_ns: int, ended_ns: int, executed: Executed) -> None:
        statistics, entries = self.statistics, batch.entries
        for entry in entries:
            waited_ns = began_ns - entry.arrived_ns
            statistics.remember(ended_ns, {"success": ended_ns - entry.arrived_ns, "queue": waited_ns})
        took_ns = {
            "compute_input": executed.compute_input_ns,
            "compute_infer": executed.compute_infer_ns,
            "compute_output": executed.compute_output_ns,
        }
        statistics.remember(ended_ns, took_ns, len(entries))

    def _count_failures(self, reason: Reason, count: int) -> None:
        failures = self.statistics.failures
        failures[reason] = failures.get(reason, 0) + count
