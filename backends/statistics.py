"""What a model has done: Triton's statistics extension, as counters that add up."""

from __future__ import annotations

import time

import msgspec

from backends.quantiles import Recent

FIRST_RESPONSE_BOUNDS_MS = (100.0, 500.0, 2000.0, 5000.0)
"""Upper bounds of the histogram of times to the first response, Triton's own."""


class Duration(msgspec.Struct):
    """So many events, which took so many nanoseconds together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


class InferenceStatistics(msgspec.Struct):
    """Triton's `inference_stats`. A request that was answered from the cache counts in `cache_hit` and in `success`."""

    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    queue: Duration = msgspec.field(default_factory=Duration)
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)
    cache_hit: Duration = msgspec.field(default_factory=Duration)
    cache_miss: Duration = msgspec.field(default_factory=Duration)


class BatchStatistics(msgspec.Struct):
    """Executions of one batch size."""

    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)


class ResponseStatistics(msgspec.Struct):
    """Responses of one index within a decoupled model's stream."""

    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)
    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    empty_response: Duration = msgspec.field(default_factory=Duration)
    cancel: Duration = msgspec.field(default_factory=Duration)


class CacheStatistics(msgspec.Struct):
    """A response cache: what it holds now, and what looking into it and putting in have taken."""

    entries: int = 0
    evictions: int = 0
    used_bytes: int = 0
    size_bytes: int = 0
    lookup: Duration = msgspec.field(default_factory=Duration)
    insertion: Duration = msgspec.field(default_factory=Duration)

    def merge(self, other: CacheStatistics) -> None:
        """Add another cache."""
        self.entries += other.entries
        self.evictions += other.evictions
        self.used_bytes += other.used_bytes
        self.size_bytes += other.size_bytes
        self.lookup.add(other.lookup.ns, other.lookup.count)
        self.insertion.add(other.insertion.ns, other.insertion.count)


class ModelStatistics(msgspec.Struct):
    """One version of one model. `inference_count` counts rows of batches, `execution_count` batches.

    `batch_stats` by batch size, `response_stats` by response index, `failures` by Triton's reason (`REJECTED`,
    `CANCELED`, `BACKEND`, `OTHER`); `first_response_ms` are the histogram's counts by upper bound, its sum under "sum".
    `recent`, by the names of `inference_stats`, is None where nobody wants quantiles.
    """

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferenceStatistics = msgspec.field(default_factory=InferenceStatistics)
    batch_stats: dict[int, BatchStatistics] = {}
    response_stats: dict[int, ResponseStatistics] = {}
    failures: dict[str, int] = {}
    pending: int = 0
    first_response_ms: dict[str, float] = {}
    cache: CacheStatistics = msgspec.field(default_factory=CacheStatistics)
    recent: dict[str, Recent] | None = None

    def remember(self, now_ns: int, took_ns: dict[str, int], count: int = 1) -> None:
        """Have so many requests in the quantiles, which took so long each; only where they are wanted."""
        assert self.recent is not None
        for event, ns in took_ns.items():
            recent = self.recent.get(event)
            if recent is None:
                recent = self.recent[event] = Recent()
            recent.add(ns, now_ns, count)

    def settle(self, rows: int, ns: int, failure: str = "") -> None:
        """Count a request of a model that has no queue of its own: all of its time is work. `failure` is its reason."""
        stats = self.inference_stats
        if failure:
            stats.fail.add(ns)
            self.failures[failure] = self.failures.get(failure, 0) + 1
            return
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inference_count += rows
        self.execution_count += 1
        stats.success.add(ns)
        stats.queue.add(0)
        batches = self.batch_stats.get(rows)
        if batches is None:
            batches = self.batch_stats[rows] = BatchStatistics()
        for counted in (stats, batches):
            counted.compute_input.add(0)
            counted.compute_infer.add(ns)
            counted.compute_output.add(0)
        if self.recent is not None:
            took_ns = {"success": ns, "queue": 0, "compute_input": 0, "compute_infer": ns, "compute_output": 0}
            self.remember(time.monotonic_ns(), took_ns)

    def first_response(self, ns: int) -> None:
        """A request of a decoupled model got its first response."""
        milliseconds = ns / 1e6
        bound = next((f"{bound:g}" for bound in FIRST_RESPONSE_BOUNDS_MS if milliseconds <= bound), "+Inf")
        self.first_response_ms[bound] = self.first_response_ms.get(bound, 0) + 1
        self.first_response_ms["sum"] = self.first_response_ms.get("sum", 0.0) + milliseconds

    def merge(self, other: ModelStatistics) -> None:
        """Add what another process counted."""
        self.last_inference_ms = max(self.last_inference_ms, other.last_inference_ms)
        self.inference_count += other.inference_count
        self.execution_count += other.execution_count
        self.pending += other.pending
        _merge_durations(self.inference_stats, other.inference_stats)
        for size, batches in other.batch_stats.items():
            _merge_durations(self.batch_stats.setdefault(size, BatchStatistics()), batches)
        for index, responses in other.response_stats.items():
            _merge_durations(self.response_stats.setdefault(index, ResponseStatistics()), responses)
        for reason, count in other.failures.items():
            self.failures[reason] = self.failures.get(reason, 0) + count
        self.cache.merge(other.cache)
        for bound, value in other.first_response_ms.items():
            self.first_response_ms[bound] = self.first_response_ms.get(bound, 0) + value
        for event, recent in (other.recent or {}).items():
            self.recent = self.recent or {}
            self.recent.setdefault(event, Recent()).merge(recent)


def _merge_durations(into: msgspec.Struct, other: msgspec.Struct) -> None:
    for field in into.__struct_fields__:
        duration: Duration = getattr(other, field)
        getattr(into, field).add(duration.ns, duration.count)
