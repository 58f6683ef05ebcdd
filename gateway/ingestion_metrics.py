"""What ingesters did: files by how they ended, their chunks, the time in each stage; and how many files wait."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.histogram import Histogram
from gateway.pipeline_metrics import Observe

STAGE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class IngestionTally(msgspec.Struct):
    """One ingester's numbers; they only grow, but for `waiting`, which is of this moment where it is known."""

    files: dict[str, int] = {}
    """By how they ended: `completed`, `cancelled`, or the code of the error."""
    chunks: int = 0
    seconds: dict[str, Histogram] = {}
    """By stage."""
    waiting: int | None = None

    def took(self, stage: str, seconds: float) -> None:
        histogram = self.seconds.get(stage)
        if histogram is None:
            histogram = self.seconds[stage] = Histogram.empty(STAGE_BOUNDS)
        histogram.observe(seconds)

    def ended(self, outcome: str, chunks: int = 0) -> None:
        self.files[outcome] = self.files.get(outcome, 0) + 1
        self.chunks += chunks

    def add(self, other: IngestionTally) -> None:
        """What grows of another."""
        for outcome, count in other.files.items():
            self.files[outcome] = self.files.get(outcome, 0) + count
        self.chunks += other.chunks
        for stage, histogram in other.seconds.items():
            self.seconds.setdefault(stage, Histogram.empty(histogram.bounds)).add(histogram)


class IngestionLedger:
    """The last payload of the living ingester, and the sum of those before it, so that no counter falls."""

    def __init__(self) -> None:
        self._living: dict[str, IngestionTally] = {}
        self._dead = IngestionTally()

    def keep(self, key: str, payload: bytes) -> None:
        self._living[key] = msgspec.msgpack.decode(payload, type=IngestionTally)

    def bury(self, key: str) -> None:
        self._dead.add(self._living.pop(key, IngestionTally()))

    def total(self) -> IngestionTally:
        total = IngestionTally()
        for tally in (self._dead, *self._living.values()):
            total.add(tally)
            total.waiting = tally.waiting
        return total


def families(tally: IngestionTally, observe: Observe) -> Iterator[Metric]:
    """The same for Prometheus."""
    files = CounterMetricFamily(
        "tritium_ingested_files", "Files whose ingestion has ended, by how it did.", labels=["outcome"]
    )
    for outcome, count in tally.files.items():
        files.add_metric([outcome], count)
    seconds = HistogramMetricFamily(
        "tritium_ingestion_seconds", "Time of a file in a stage, its wait there included.", labels=["stage"]
    )
    for stage, histogram in tally.seconds.items():
        observe(seconds, [stage], histogram)
    waiting = GaugeMetricFamily("tritium_ingestion_queue_length", "Files that are not ingested yet.")
    if tally.waiting is not None:
        waiting.add_metric([], tally.waiting)
    yield from (files, seconds, waiting)
    yield CounterMetricFamily("tritium_ingested_chunks", "Chunks put into vector stores.", value=tally.chunks)
