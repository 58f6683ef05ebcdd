"""A model's own metrics: what each instance last said, added up as if they were of one process."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from backends.worker.messages import Metric

_Key = tuple[str, tuple[tuple[str, str], ...]]


class OwnMetrics:
    """Counters and histograms of all instances add up, of processes that ended too; of gauges the last value."""

    def __init__(self) -> None:
        self._now: dict[int, dict[_Key, Metric]] = {}
        self._past: dict[_Key, Metric] = {}
        self._gauges: dict[_Key, Metric] = {}

    def update(self, instance: int, metrics: Iterable[Metric]) -> None:
        """All metrics of one instance, as they are now."""
        now = {}
        for metric in metrics:
            key = (metric.family, tuple(sorted(metric.labels.items())))
            if metric.kind == "gauge":
                self._gauges[key] = metric
            else:
                now[key] = metric
        self._now[instance] = now

    def ended(self, instance: int) -> None:
        """The process of an instance is gone: what it counted stays, what its successor counts comes on top."""
        for key, metric in self._now.pop(instance, {}).items():
            _add(self._past, key, metric)

    def collect(self) -> list[Metric]:
        total = dict(self._past)
        for metrics in self._now.values():
            for key, metric in metrics.items():
                _add(total, key, metric)
        return [*total.values(), *self._gauges.values()]


def _add(total: dict[_Key, Metric], key: _Key, metric: Metric) -> None:
    before = total.get(key)
    if before is None or len(before.counts) != len(metric.counts):
        total[key] = metric
        return
    counts = [one + other for one, other in zip(before.counts, metric.counts, strict=True)]
    total[key] = msgspec.structs.replace(metric, value=before.value + metric.value, counts=counts)
