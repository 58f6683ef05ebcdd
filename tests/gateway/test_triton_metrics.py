"""Triton's metrics, from statistics to the text that its scrapers read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from backends.config import ModelConfig, ResponseCache, TransactionPolicy
from backends.statistics import CacheStatistics, Duration, InferenceStatistics, ModelStatistics
from backends.worker.messages import Metric
from gateway import pairs
from gateway.machine import Machine
from gateway.triton_metrics import Told, model_families, open_metrics, text

RECORDED = Path(__file__).parents[1] / "conformance" / "metric_families.json"
"""What Triton 2.51 tells on a machine without GPUs, with a response cache."""

LATENCIES = pairs.metrics([])


def _told(name: str = "simple", own: list[Metric] | None = None, **fields: object) -> Told:
    statistics = ModelStatistics(
        inference_count=5,
        execution_count=3,
        inference_stats=InferenceStatistics(
            success=Duration(4, 9_999), queue=Duration(4, 2_000), cache_hit=Duration(2, 7_000)
        ),
        failures={"REJECTED": 2},
        pending=1,
        first_response_ms={"100": 3, "+Inf": 1, "sum": 6_000.5},
    )
    return Told(ModelConfig(name, "python", **fields), statistics, own or [])  # type: ignore[arg-type]


def _lines(*told: Told) -> list[str]:
    return text(model_families(told, LATENCIES)).decode().splitlines()


def test_every_family_of_triton_s_is_there_with_its_type_text_and_labels() -> None:
    cached = _told("cached", response_cache=ResponseCache(enable=True))
    cached.statistics.cache = CacheStatistics(size_bytes=100)
    found = {
        family.name: {"type": family.type, "help": family.documentation, "labels": [*family.samples[0].labels]}
        for family in [*model_families([cached], LATENCIES), *Machine().families()]
    }
    expected = json.loads(RECORDED.read_text())
    assert {name: found.get(name) for name in expected} == expected


def test_names_labels_and_texts_are_triton_s() -> None:
    lines = _lines(_told())
    assert "# HELP nv_inference_request_success Number of successful inference requests, all batch sizes" in lines
    assert "# TYPE nv_inference_request_success counter" in lines
    assert 'nv_inference_request_success{model="simple",version="1"} 4' in lines
    assert 'nv_inference_request_failure{model="simple",reason="REJECTED",version="1"} 2' in lines
    assert 'nv_inference_request_failure{model="simple",reason="BACKEND",version="1"} 0' in lines
    assert 'nv_inference_count{model="simple",version="1"} 5' in lines
    assert 'nv_inference_exec_count{model="simple",version="1"} 3' in lines
    assert 'nv_inference_request_duration_us{model="simple",version="1"} 9' in lines
    assert 'nv_inference_queue_duration_us{model="simple",version="1"} 2' in lines
    assert 'nv_inference_pending_request_count{model="simple",version="1"} 1' in lines


def test_latencies_are_told_as_counters_as_summaries_or_not_at_all() -> None:
    told = _told("cached", response_cache=ResponseCache(enable=True))
    lines = text(model_families([told], pairs.metrics(["counter_latencies=false", "summary_latencies=true"])))
    labels = b'{model="cached",version="1"}'
    assert b"nv_inference_request_summary_us_count%b 4\n" % labels in lines
    assert b"nv_inference_request_summary_us_sum%b 9\n" % labels in lines
    assert b"# TYPE nv_inference_queue_summary_us summary\n" in lines
    assert b"nv_cache_hit_summary_per_model_count%b 2\n" % labels in lines
    assert b"duration" not in b"\n".join(line for line in lines.splitlines() if not line.startswith(b"#"))


def test_summaries_have_the_quantiles_that_are_wanted_of_what_was_lately() -> None:
    told = _told("cached", response_cache=ResponseCache(enable=True))
    told.statistics.recent = {}
    for took_us in (100, 200, 300, 400, 5_000):
        took_ns = took_us * 1000
        told.statistics.remember(time.monotonic_ns(), {"success": took_ns, "queue": 0, "cache_miss": took_ns})
    latencies = pairs.metrics(["summary_latencies=true", "summary_quantiles=0.5:0.05,1:0.001"])
    families = {family.name: family for family in model_families([told], latencies)}

    def quantiles(name: str) -> dict[str, float]:
        samples = families[name].samples
        assert all(list(sample.labels)[:2] == ["model", "version"] for sample in samples)
        return {sample.labels["quantile"]: sample.value for sample in samples if sample.name == name}

    expected = {"0.5": pytest.approx(300, rel=0.01), "1": pytest.approx(5_000, rel=0.01)}
    assert quantiles("nv_inference_request_summary_us") == expected
    assert quantiles("nv_inference_queue_summary_us") == {"0.5": 0, "1": 0}
    assert quantiles("nv_cache_miss_summary_per_model") == expected
    labels = 'model="cached",version="1",quantile="0.5"'
    lines = text(families.values()).decode().splitlines()
    assert f"nv_inference_compute_infer_summary_us{{{labels}}} NaN" in lines
    assert f"nv_cache_hit_summary_per_model{{{labels}}} NaN" in lines


def test_quantiles_of_several_processes_are_those_of_all_their_requests() -> None:
    total = ModelStatistics()
    for took_ns in (1_000, 2_000, 9_000_000):
        one = ModelStatistics(recent={})
        one.settle(1, took_ns)
        one.settle(1, 0, "OTHER")
        total.merge(one)
    assert total.recent is not None
    assert total.recent["success"].quantiles([0.5], time.monotonic_ns()) == [pytest.approx(2_000, rel=0.01)]
    assert ModelStatistics().recent is None


def test_times_to_the_first_response_may_be_left_out() -> None:
    told = _told(model_transaction_policy=TransactionPolicy(decoupled=True))
    name = b"nv_inference_first_response_histogram_ms"
    assert name in text(model_families([told], LATENCIES))
    assert name not in text(model_families([told], pairs.metrics(["histogram_latencies=false"])))


def test_a_model_s_tags_are_labels_of_all_its_metrics() -> None:
    assert 'nv_inference_count{model="simple",team="a \\"b\\"",version="1"} 5' in _lines(
        _told(metric_tags={"team": 'a "b"', "": "of no name"})
    )


def test_only_models_with_a_cache_tell_of_it() -> None:
    assert not any(line.startswith("nv_cache") for line in _lines(_told()))
    lines = _lines(_told(), _told("cached", response_cache=ResponseCache(enable=True)))
    assert [line for line in lines if line.startswith("nv_cache_num_hits")] == [
        'nv_cache_num_hits_per_model{model="cached",version="1"} 2'
    ]
    assert 'nv_cache_hit_duration_per_model{model="cached",version="1"} 7' in lines


def test_caches_are_told_of_as_one() -> None:
    versions = [_told(), *(_told(name, response_cache=ResponseCache(enable=True)) for name in ("a", "b"))]
    for version in versions[1:]:
        version.statistics.cache = CacheStatistics(3, 1, 512, 1024, Duration(5, 7_000), Duration(4, 3_000))
    lines = [line for line in _lines(*versions) if line.startswith("nv_cache") and "per_model" not in line]
    assert lines == [
        "nv_cache_util 0.5",
        "nv_cache_num_entries 6",
        "nv_cache_num_hits 4",
        "nv_cache_num_misses 0",
        "nv_cache_num_lookups 10",
        "nv_cache_num_evictions 2",
        "nv_cache_lookup_duration 14",
        "nv_cache_insertion_duration 6",
    ]


def test_times_to_the_first_response_are_a_histogram_of_decoupled_models() -> None:
    assert not any("first_response" in line for line in _lines(_told()))
    lines = _lines(_told(model_transaction_policy=TransactionPolicy(decoupled=True)))
    name, labels = "nv_inference_first_response_histogram_ms", 'model="simple",version="1"'
    assert f'{name}_bucket{{{labels},le="100"}} 3' in lines
    assert f'{name}_bucket{{{labels},le="5000"}} 3' in lines
    assert f'{name}_bucket{{{labels},le="+Inf"}} 4' in lines
    assert f"{name}_count{{{labels}}} 4" in lines
    assert f"{name}_sum{{{labels}}} 6000.5" in lines


def test_a_model_s_own_metrics_come_as_it_defines_them() -> None:
    own = [
        Metric("my_total", "counter", "Of\nmine", {"a": "b"}, 2.5),
        Metric("my_gauge", "gauge", "g", {}, float("nan")),
        Metric("my_hist", "histogram", "h", {"a": "b"}, 1.25, [0.5, 2.0], [1, 0, 2]),
    ]
    lines = _lines(_told(own=own), _told("other", own=[Metric("my_total", "gauge", "another kind", {}, 1)]))
    assert "# HELP my_total Of\\nmine" in lines
    assert [line for line in lines if line.startswith("my_")] == [
        'my_total{a="b"} 2.5',
        "my_gauge NaN",
        'my_hist_bucket{a="b",le="0.5"} 1',
        'my_hist_bucket{a="b",le="2"} 1',
        'my_hist_bucket{a="b",le="+Inf"} 3',
        'my_hist_count{a="b"} 3',
        'my_hist_sum{a="b"} 1.25',
    ]


def test_openmetrics_has_the_same_names() -> None:
    told = _told(own=[Metric("my_total", "counter", "mine", {}, 1)])
    latencies = pairs.metrics(["summary_latencies=true"])
    lines = text(model_families([told], latencies)).decode().splitlines()
    plain = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}

    class Families:
        def collect(self):
            return open_metrics(model_families([told], latencies))

    registry = CollectorRegistry()
    registry.register(Families())  # type: ignore[arg-type]
    opened = {
        sample.name for family in parse_openmetrics(generate_latest(registry).decode()) for sample in family.samples
    }
    assert {"nv_inference_count", "my_total"} <= plain == opened
