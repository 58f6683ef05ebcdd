"""What pipelines did, by model: how long each step took, what was done without, what an answer cited that is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from backends.model import Pipelined
from gateway.histogram import Histogram

STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Observe = Callable[[HistogramMetricFamily, list[str], Histogram], None]


class PipelineTally(msgspec.Struct):
    """One pipeline's numbers in one process; they only grow."""

    steps: dict[str, Histogram] = {}
    degraded: dict[tuple[str, str], int] = {}
    """By (step, reason)."""
    unknown_markers: int = 0
    abstentions: int = 0

    def count(self, done: Pipelined) -> None:
        """A request has ended."""
        for step, seconds in done.seconds.items():
            histogram = self.steps.get(step)
            if histogram is None:
                histogram = self.steps[step] = Histogram.empty(STEP_BOUNDS)
            histogram.observe(seconds)
        for key in done.degraded.items():
            self.degraded[key] = self.degraded.get(key, 0) + 1
        self.unknown_markers += done.unknown_markers
        self.abstentions += done.abstained

    def add(self, other: PipelineTally) -> None:
        for step, histogram in other.steps.items():
            self.steps.setdefault(step, Histogram.empty(histogram.bounds)).add(histogram)
        for key, value in other.degraded.items():
            self.degraded[key] = self.degraded.get(key, 0) + value
        self.unknown_markers += other.unknown_markers
        self.abstentions += other.abstentions


def families(tallies: Iterable[tuple[str, PipelineTally]], observe: Observe) -> Iterator[Metric]:
    """The same for Prometheus, from each model's name and numbers."""
    seconds = HistogramMetricFamily("tritium_step_seconds", "Time in a step of a pipeline.", labels=["model", "step"])
    degraded = CounterMetricFamily(
        "tritium_steps_degraded", "Steps that a pipeline did without.", labels=["model", "step", "reason"]
    )
    unknown = CounterMetricFamily(
        "tritium_unknown_citations", "Citations of passages that there are not.", labels=["model"]
    )
    abstentions = CounterMetricFamily(
        "tritium_abstentions", "Questions that nothing was found for to answer from.", labels=["model"]
    )
    for model, tally in tallies:
        for step, histogram in tally.steps.items():
            observe(seconds, [model, step], histogram)
        for (step, reason), value in tally.degraded.items():
            degraded.add_metric([model, step, reason], value)
        unknown.add_metric([model], tally.unknown_markers)
        abstentions.add_metric([model], tally.abstentions)
    yield from (seconds, degraded, unknown, abstentions)
