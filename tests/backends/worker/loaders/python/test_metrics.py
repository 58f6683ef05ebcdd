from __future__ import annotations

import msgspec
import numpy as np
import pytest

from backends.worker import messages
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.metrics import MetricFamily
from backends.worker.loaders.python.session import current

pytestmark = pytest.mark.usefixtures("host")
PREFIX = "Failed to process the request for model 'm_0_0', message: "


def test_values_are_told_with_their_labels():
    counter = MetricFamily(name="c_total", description="C", kind=MetricFamily.COUNTER)
    gauge = MetricFamily("g", "G", MetricFamily.GAUGE)
    histogram = MetricFamily("h", "H", MetricFamily.HISTOGRAM)
    counter.Metric(labels={"a": "b"}).increment(2)
    counter.Metric(labels={"a": "b"}).increment(0.5)
    height = gauge.Metric()
    height.set(3)
    height.increment(-5)
    sizes = histogram.Metric(labels={}, buckets=[1, 2.5])
    for value in (1, 2, 9):
        sizes.observe(value)
    assert height.value() == -2
    metrics = current().metrics
    assert metrics.changed
    assert metrics.told().metrics == [
        messages.Metric("c_total", "counter", "C", {"a": "b"}, 2.5),
        messages.Metric("g", "gauge", "G", {}, -2),
        messages.Metric("h", "histogram", "H", {}, 12, [1, 2.5], [1, 1, 1]),
    ]
    assert not metrics.changed


@pytest.mark.parametrize(
    ("kind", "operation", "message"),
    [
        ("COUNTER", "set", "Failed to set metric value: {}TRITONSERVER_METRIC_KIND_COUNTER does not support Set"),
        (
            "COUNTER",
            "observe",
            "Failed to observe metric value: {}TRITONSERVER_METRIC_KIND_COUNTER does not support Observe",
        ),
        (
            "GAUGE",
            "observe",
            "Failed to observe metric value: {}TRITONSERVER_METRIC_KIND_GAUGE does not support Observe",
        ),
        (
            "HISTOGRAM",
            "increment",
            "Failed to increment metric value: {}TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Increment",
        ),
    ],
)
def test_a_kind_refuses_what_it_does_not_offer(kind, operation, message):
    family = MetricFamily("m", "M", getattr(MetricFamily, kind))
    metric = family.Metric(buckets=[1.0] if kind == "HISTOGRAM" else None)
    with pytest.raises(TritonModelException) as caught:
        getattr(metric, operation)(1)
    assert str(caught.value) == message.format(PREFIX)


def test_a_histogram_has_no_value_and_a_counter_never_falls():
    family = MetricFamily("h", "H", MetricFamily.HISTOGRAM)
    with pytest.raises(TritonModelException, match="TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value"):
        family.Metric(buckets=[1.0]).value()
    counter = MetricFamily("c", "C", MetricFamily.COUNTER)
    with pytest.raises(TritonModelException, match="can only be incremented monotonically"):
        counter.Metric().increment(-1)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("COUNTER", {"labels": "x"}, "Failed to create metric. Labels must be a dictionary."),
        (
            "COUNTER",
            {"labels": {1: 2}},
            f"Error when creating Metric: {PREFIX}attempt to access JSON non-string as string",
        ),
        ("GAUGE", {"buckets": [1]}, "Failed to create metric. Unexpected buckets found."),
        ("HISTOGRAM", {}, "Failed to create metric. Missing required buckets."),
        ("HISTOGRAM", {"buckets": (1, 2)}, "Failed to create metric. Buckets must be a list."),
        (
            "HISTOGRAM",
            {"buckets": [2, 1]},
            f"Error when creating Metric: {PREFIX}Bucket Boundaries must be strictly sorted",
        ),
    ],
)
def test_metrics_are_refused_in_tritons_words(kind, arguments, message):
    family = MetricFamily("m", "M", getattr(MetricFamily, kind))
    with pytest.raises(TritonModelException) as caught:
        family.Metric(**arguments)
    assert str(caught.value) == message


def test_families_are_refused_in_tritons_words():
    kept = MetricFamily("g", "G", MetricFamily.GAUGE)
    with pytest.raises(TritonModelException, match=f"^Error when creating MetricFamily: {PREFIX}Family name already"):
        MetricFamily("g", "other", MetricFamily.COUNTER)
    with pytest.raises(TritonModelException, match=f"^Error when creating MetricFamily: {PREFIX}Invalid metric name$"):
        MetricFamily("g g", "G", MetricFamily.GAUGE)
    with pytest.raises(TritonModelException, match="Invalid metric name"):
        MetricFamily("__g", "G", MetricFamily.GAUGE)
    with pytest.raises(TypeError):
        MetricFamily("x", "X", 5)
    assert kept.kind is MetricFamily.GAUGE


def test_numpys_numbers_are_told_as_plain_ones():
    family = MetricFamily("g", "G", MetricFamily.GAUGE)
    gauge = family.Metric()
    gauge.set(np.float32(1.5))
    gauge.increment(np.int64(2))
    sizes = MetricFamily("h", "H", MetricFamily.HISTOGRAM)
    sizes.Metric(buckets=[np.float64(1)]).observe(np.float16(0.5))
    told = current().metrics.told()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=messages.Metrics) == told
    assert [metric.value for metric in told.metrics] == [3.5, 0.5]
    with pytest.raises(TypeError):
        gauge.set("3")


@pytest.mark.parametrize("label", ["bad label", "1bad", "", "é", "__x", "a:b"])
def test_a_label_that_no_scraper_takes_is_refused(label):
    family = MetricFamily("g", "G", MetricFamily.GAUGE)
    with pytest.raises(TritonModelException, match=f"^Error when creating Metric: {PREFIX}Invalid label name$"):
        family.Metric(labels={label: "x"})


def test_a_family_is_described_by_a_text():
    with pytest.raises(TypeError, match="description"):
        MetricFamily("g", None, MetricFamily.GAUGE)


def test_a_metric_needs_its_family():
    metric = MetricFamily("g", "G", MetricFamily.GAUGE).Metric()
    with pytest.raises(TritonModelException, match=r"^Failed to set metric value: Invalid metric operation as the"):
        metric.set(1)
