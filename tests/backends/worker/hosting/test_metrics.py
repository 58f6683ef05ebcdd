"""A model's own metrics over several instances and their restarts."""

from __future__ import annotations

from backends.worker.hosting.metrics import OwnMetrics
from backends.worker.messages import Metric


def counter(value: float, **labels: str) -> Metric:
    return Metric("requests", "counter", "d", labels, value)


def histogram(total: float, *counts: int) -> Metric:
    return Metric("sizes", "histogram", "d", {}, total, [1.0, 2.0], list(counts))


def test_counters_and_histograms_of_instances_add_up() -> None:
    metrics = OwnMetrics()
    metrics.update(0, [counter(1, a="b"), counter(5, a="c"), histogram(1.5, 1, 1, 0)])
    metrics.update(1, [counter(2, a="b"), histogram(9.0, 0, 0, 1)])
    metrics.update(0, [counter(3, a="b"), counter(5, a="c"), histogram(1.5, 1, 1, 0)])
    assert metrics.collect() == [counter(5, a="b"), counter(5, a="c"), histogram(10.5, 1, 1, 1)]


def test_what_an_ended_process_counted_stays() -> None:
    metrics = OwnMetrics()
    metrics.update(0, [counter(3)])
    metrics.ended(0)
    assert metrics.collect() == [counter(3)]
    metrics.update(0, [counter(1)])
    assert metrics.collect() == [counter(4)]
    metrics.ended(1)
    assert metrics.collect() == [counter(4)]


def test_the_last_value_of_a_gauge_counts() -> None:
    metrics = OwnMetrics()
    gauge = Metric("load", "gauge", "d", {}, 3)
    metrics.update(0, [gauge])
    metrics.update(1, [Metric("load", "gauge", "d", {}, 1)])
    assert [metric.value for metric in metrics.collect()] == [1]


def test_a_histogram_whose_buckets_changed_begins_anew() -> None:
    metrics = OwnMetrics()
    metrics.update(0, [histogram(1.0, 1, 0, 0)])
    metrics.ended(0)
    changed = Metric("sizes", "histogram", "d", {}, 4.0, [8.0], [1, 0])
    metrics.update(0, [changed])
    assert metrics.collect() == [changed]
