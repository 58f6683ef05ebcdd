"""A model's own metrics: families of counters, gauges and histograms, told to the host when they have changed."""

from __future__ import annotations

import re
import threading
import weakref
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from itertools import pairwise
from typing import Literal

from backends.worker import messages
from backends.worker.loaders.python.arguments import real, text
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.session import current

_NAME = re.compile(r"(?!__)[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")


class MetricKind(IntEnum):
    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2

    __str__ = Enum.__str__
    __format__ = Enum.__format__


class _Series:
    """The values of one set of labels, shared by all `Metric`s of it."""

    __slots__ = ("buckets", "counts", "value")

    def __init__(self, buckets: Sequence[float]) -> None:
        self.value = 0.0
        self.buckets = list(buckets)
        self.counts = [0] * (len(buckets) + 1) if buckets else []


class Metrics:
    """All families of this process, and whether they have changed since they were last told."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = False
        self._families: dict[str, tuple[MetricKind, str, dict[tuple[tuple[str, str], ...], _Series]]] = {}

    def family(self, name: str, description: str, kind: MetricKind) -> dict[tuple[tuple[str, str], ...], _Series]:
        """The series of a family, begun at its first mention. Raises `ValueError` where it is of another kind."""
        with self.lock:
            if not _NAME.match(name):
                raise ValueError("Invalid metric name")
            known, _, series = self._families.setdefault(name, (kind, description, {}))
            if known is not kind:
                raise ValueError("Family name already exists with different type")
            return series

    def told(self) -> messages.Metrics:
        """All values as of now."""
        with self.lock:
            self.changed = False
            return messages.Metrics(
                [
                    messages.Metric(
                        name,
                        _KINDS[kind],
                        description,
                        dict(labels),
                        series.value,
                        series.buckets,
                        list(series.counts),
                    )
                    for name, (kind, description, all_series) in self._families.items()
                    for labels, series in all_series.items()
                ]
            )


_KINDS: dict[MetricKind, Literal["counter", "gauge", "histogram"]] = {
    MetricKind.COUNTER: "counter",
    MetricKind.GAUGE: "gauge",
    MetricKind.HISTOGRAM: "histogram",
}


class MetricFamily:
    """`MetricFamily(name=…, description=…, kind=MetricFamily.COUNTER)`; its metrics work as long as it lives."""

    COUNTER = MetricKind.COUNTER
    GAUGE = MetricKind.GAUGE
    HISTOGRAM = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        if not isinstance(kind, MetricKind):
            raise TypeError(f"MetricFamily: kind must be COUNTER, GAUGE or HISTOGRAM of MetricFamily, not {kind!r}")
        name = text(name, "MetricFamily: name")
        description = text(description, "MetricFamily: description")
        session = current()
        self._metrics = session.metrics
        self.kind = kind
        try:
            self._series = self._metrics.family(name, description, kind)
        except ValueError as error:
            raise _failed("Error when creating MetricFamily", str(error)) from None

    def Metric(  # noqa: N802 - the name that a model.py knows
        self, labels: Mapping[str, str] | None = None, buckets: list[float] | None = None
    ) -> Metric:
        """The metric of these labels; a histogram needs the upper bounds of its buckets."""
        if labels is not None and not isinstance(labels, dict):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        if self.kind is MetricKind.HISTOGRAM:
            if buckets is None:
                raise TritonModelException("Failed to create metric. Missing required buckets.")
            if not isinstance(buckets, list):
                raise TritonModelException("Failed to create metric. Buckets must be a list.")
            buckets = [real(bound, "MetricFamily.Metric: bucket") for bound in buckets]
            if any(left >= right for left, right in pairwise(buckets)):
                raise _failed("Error when creating Metric", "Bucket Boundaries must be strictly sorted")
        elif buckets is not None:
            raise TritonModelException("Failed to create metric. Unexpected buckets found.")
        labels = labels or {}
        if any(not isinstance(text, str) for item in labels.items() for text in item):
            raise _failed("Error when creating Metric", "attempt to access JSON non-string as string")
        labels = {text(name, "label"): text(value, "label") for name, value in labels.items()}
        if not all(map(_LABEL.match, labels)):
            raise _failed("Error when creating Metric", "Invalid label name")
        with self._metrics.lock:
            series = self._series.setdefault(tuple(sorted(labels.items())), _Series(buckets or ()))
            self._metrics.changed = True
        return Metric(self, self._metrics, series)


class Metric:
    """One set of labels of a family. Every method raises `TritonModelException` for what its kind does not offer."""

    def __init__(self, family: MetricFamily, metrics: Metrics, series: _Series) -> None:
        self._family = weakref.ref(family)
        self._kind = family.kind
        self._metrics = metrics
        self._series = series

    def increment(self, value: float) -> None:
        """Add to a counter (not less than nothing) or a gauge."""
        value = real(value, "Metric.increment: value")
        self._check("increment metric", "Increment", MetricKind.COUNTER, MetricKind.GAUGE)
        if self._kind is MetricKind.COUNTER and value < 0:
            raise _failed(
                "Failed to increment metric value",
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values.",
            )
        with self._metrics.lock:
            self._series.value += value
            self._metrics.changed = True

    def set(self, value: float) -> None:
        """Set a gauge."""
        value = real(value, "Metric.set: value")
        self._check("set metric", "Set", MetricKind.GAUGE)
        with self._metrics.lock:
            self._series.value = value
            self._metrics.changed = True

    def observe(self, value: float) -> None:
        """Count a value in a histogram."""
        value = real(value, "Metric.observe: value")
        self._check("observe metric", "Observe", MetricKind.HISTOGRAM)
        series = self._series
        with self._metrics.lock:
            series.value += value
            series.counts[bisect_left(series.buckets, value)] += 1
            self._metrics.changed = True

    def value(self) -> float:
        """The value of a counter or a gauge."""
        self._check("get metric", "Value", MetricKind.COUNTER, MetricKind.GAUGE)
        return self._series.value

    def _check(self, what: str, operation: str, *kinds: MetricKind) -> None:
        if self._family() is None:
            raise TritonModelException(
                f"Failed to {what} value: Invalid metric operation as the corresponding 'MetricFamily' has been"
                " deleted. The 'MetricFamily' object should be deleted AFTER its corresponding 'Metric' objects have"
                " been deleted."
            )
        if self._kind not in kinds:
            raise _failed(
                f"Failed to {what} value", f"TRITONSERVER_METRIC_KIND_{self._kind.name} does not support {operation}"
            )


def _failed(what: str, why: str) -> TritonModelException:
    return TritonModelException(f"{what}: Failed to process the request for model '{current().model}', message: {why}")
