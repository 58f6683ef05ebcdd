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
    assert pairs.metrics([]) == {
        "counter_latencies": True,
        "summary_latencies": False,
        "histogram_latencies": True,
    }
    told = pairs.metrics(["counter_latencies=false", "summary_latencies=True"])
    assert (told["counter_latencies"], told["summary_latencies"]) == (False, True)


@pytest.mark.parametrize("option", ["nonsense=true", "counter_latencies=maybe", "counter_latencies"])
def test_latencies_that_cannot_be_read_are_refused(option):
    with pytest.raises(ValueError, match="the form is NAME=true"):
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
