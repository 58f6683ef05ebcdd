"""Pairs as `tritonserver` writes them: read, or refused with what is wrong."""

from __future__ import annotations

import pytest

from gateway import pairs


def test_groups_are_restricted_to_whoever_sends_a_header():
    options = ["model-repository,statistics:Admin-Key=a=b", "logging:other=x"]
    assert pairs.restrictions(options) == {
        "model-repository": ("admin-key", "a=b"),
        "statistics": ("admin-key", "a=b"),
        "logging": ("other", "x"),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["inference"], "the form is GROUP"),
        (["inference:key"], "the form is GROUP"),
        (["inference:=value"], "the form is GROUP"),
        (["nonsense:a=b"], "no group 'nonsense'"),
        (["inference:a=b", "health,inference:c=d"], "'inference' is restricted twice"),
    ],
)
def test_a_restriction_that_cannot_be_read_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pairs.restrictions(options)


def test_latencies_are_counters_and_histograms_unless_said_otherwise():
    assert pairs.metrics([]) == pairs.Latencies(
        counters=True, summaries=False, histograms=True, quantiles=(0.5, 0.9, 0.95, 0.99, 0.999)
    )
    told = pairs.metrics(["counter_latencies=false", "summary_latencies=True", "histogram_latencies=FALSE"])
    assert (told.counters, told.summaries, told.histograms) == (False, True, False)


def test_quantiles_are_those_that_are_named():
    assert pairs.metrics(["summary_quantiles=0.25:0.05,.5:0,1:1e-3"]).quantiles == (0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("nonsense=true", "the form is NAME=true"),
        ("counter_latencies=maybe", "the form is NAME=true"),
        ("counter_latencies", "the form is NAME=true"),
        ("summary_quantiles=", "'' is no QUANTILE:ERROR"),
        ("summary_quantiles=0.5", "'0.5' is no QUANTILE:ERROR"),
        ("summary_quantiles=0.5:0.1,1.5:0.1", "'1.5:0.1' is no"),
        ("summary_quantiles=nan:0.1", "'nan:0.1' is no"),
        ("summary_quantiles=half:0.1", "'half:0.1' is no"),
    ],
)
def test_latencies_that_cannot_be_read_are_refused(option, words):
    with pytest.raises(ValueError, match=words):
        pairs.metrics([option])


def test_batch_sizes_are_of_one_backend_or_of_all():
    options = ["onnxruntime,default-max-batch-size=8", "default-max-batch-size=2"]
    assert pairs.batch_sizes(options) == {"onnxruntime": 8, "": 2}


@pytest.mark.parametrize("option", ["onnxruntime,default-max-batch-size=many", "python,shm-size=1", "onnxruntime"])
def test_batch_sizes_that_cannot_be_read_are_refused(option):
    with pytest.raises(ValueError, match="default-max-batch-size=N"):
        pairs.batch_sizes([option])


def test_traces_are_the_settings_of_the_extension():
    options = ["triton,file=/t.json", "triton,log-frequency=50", "rate=100", "count=-1", "level=TENSORS"]
    assert pairs.traces([*options, "level=TIMESTAMPS", "mode=triton"]) == {
        "trace_file": "/t.json",
        "log_frequency": "50",
        "trace_rate": "100",
        "trace_count": "-1",
        "trace_level": ["TIMESTAMPS", "TENSORS"],
        "trace_mode": "triton",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nonsense=1"], "the form is NAME=VALUE"),
        (["rate="], "the form is NAME=VALUE"),
        (["rate=often"], "'often' is no rate"),
        (["mode=opentelemetry"], "'opentelemetry' is no mode"),
        (["level=LOUD"], "'LOUD' is no level"),
        (["level=OFF", "level=TIMESTAMPS"], "OFF stands alone"),
    ],
)
def test_traces_that_cannot_be_read_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pairs.traces(options)
