"""Triton's own metrics: `nv_…` of tensor models, of the response cache, of the machine, and those that models define.

Names, labels and help texts are Triton's, so that its dashboards and scalers go on working.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import Metric

from backends.config import ModelConfig
from backends.quantiles import Recent
from backends.statistics import Duration, ModelStatistics
from backends.worker.messages import Metric as OwnMetric
from gateway.pairs import Latencies

_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_DURATIONS = {
    "request": "inference request duration in microseconds (includes cached requests)",
    "queue": "inference queuing duration in microseconds (includes cached requests)",
    "compute_input": "compute input duration in microseconds (does not include cached requests)",
    "compute_infer": "compute inference duration in microseconds (does not include cached requests)",
    "compute_output": "inference compute output duration in microseconds (does not include cached requests)",
}
_FIRST_RESPONSE_BOUNDS = ("100", "500", "2000", "5000", "+Inf")


@dataclass(slots=True)
class Told:
    """What the processes of one version have counted: its statistics, and what the model itself measures."""

    config: ModelConfig
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    own: list[OwnMetric] = field(default_factory=list)


def model_families(versions: Iterable[Told], latencies: Latencies) -> Iterator[Metric]:
    """Families of all versions. What no model counts is left out, as Triton leaves it out.

    Quantiles are of what was counted for them: `ModelStatistics.recent`.
    """
    versions = list(versions)
    yield from _requests(versions)
    if latencies.counters:
        yield from _durations(versions)
    if latencies.summaries:
        yield from _summaries(versions, latencies)
    yield from _cache(versions, latencies)
    if latencies.histograms:
        yield from _first_responses(versions)
    yield from _own(versions)


def text(families: Iterable[Metric]) -> bytes:
    """The families as Prometheus' text format 0.0.4, in which names are as they are: no counter gets a suffix."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escaped(family.documentation)}")
        lines.append(f"# TYPE {family.name} {family.type}")
        for sample in family.samples:
            labels = ",".join(f'{key}="{_quoted(value)}"' for key, value in sample.labels.items())
            shown = f"{{{labels}}}" if labels else ""
            lines.append(f"{sample.name}{shown} {_shown(sample.value)}")
    return "".join([f"{line}\n" for line in lines]).encode()


def open_metrics(families: Iterable[Metric]) -> Iterator[Metric]:
    """The same for OpenMetrics, whose counters all end with `_total`: others are of unknown type there."""
    for family in families:
        if family.type == "counter" and not all(sample.name.endswith("_total") for sample in family.samples):
            family.type = "unknown"
        elif family.type == "counter":
            family.name = family.name.removesuffix("_total")
        yield family


def _requests(versions: list[Told]) -> Iterator[Metric]:
    success = Metric(
        "nv_inference_request_success", "Number of successful inference requests, all batch sizes", "counter"
    )
    failure = Metric("nv_inference_request_failure", "Number of failed inference requests, all batch sizes", "counter")
    count = Metric("nv_inference_count", "Number of inferences performed (does not include cached requests)", "counter")
    executions = Metric(
        "nv_inference_exec_count", "Number of model executions performed (does not include cached requests)", "counter"
    )
    pending = Metric(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model.",
        "gauge",
    )
    for version in versions:
        labels, statistics = _labels(version.config), version.statistics
        success.add_sample(success.name, labels, statistics.inference_stats.success.count)
        for reason in _REASONS:
            own = dict(sorted({**labels, "reason": reason}.items()))
            failure.add_sample(failure.name, own, statistics.failures.get(reason, 0))
        count.add_sample(count.name, labels, statistics.inference_count)
        executions.add_sample(executions.name, labels, statistics.execution_count)
        pending.add_sample(pending.name, labels, statistics.pending)
    yield from (success, failure, count, executions, pending)


def _durations(versions: list[Told]) -> Iterator[Metric]:
    for name, text in _DURATIONS.items():
        family = Metric(f"nv_inference_{name}_duration_us", f"Cumulative {text}", "counter")
        for version in versions:
            duration: Duration = getattr(version.statistics.inference_stats, _event(name))
            family.add_sample(family.name, _labels(version.config), duration.ns // 1000)
        yield family


def _summaries(versions: list[Told], latencies: Latencies) -> Iterator[Metric]:
    for name, text in _DURATIONS.items():
        what = "Cumulative" if name.startswith("compute") else "Summary of"  # Triton's own words
        yield _summary(f"nv_inference_{name}_summary_us", f"{what} {text}", versions, _event(name), latencies)


def _event(name: str) -> str:
    return "success" if name == "request" else name


def _summary(name: str, description: str, versions: list[Told], event: str, latencies: Latencies) -> Metric:
    family = Metric(name, description, "summary")
    now_ns = time.monotonic_ns()
    for version in versions:
        duration: Duration = getattr(version.statistics.inference_stats, event)
        labels = _labels(version.config)
        family.add_sample(f"{name}_count", labels, duration.count)
        family.add_sample(f"{name}_sum", labels, duration.ns // 1000)
        recent = (version.statistics.recent or {}).get(event, Recent())
        for quantile, ns in zip(latencies.quantiles, recent.quantiles(latencies.quantiles, now_ns), strict=True):
            family.add_sample(name, {**labels, "quantile": f"{quantile:g}"}, round(ns / 1000, 3))
    return family


def _cache(versions: list[Told], latencies: Latencies) -> Iterator[Metric]:
    cached = [version for version in versions if version.config.response_cache.enable]
    if not cached:
        return
    for what, verb in (("hit", "hit"), ("miss", "miss (insert+lookup)")):
        plural = "hits" if what == "hit" else "misses"
        count = Metric(f"nv_cache_num_{plural}_per_model", f"Number of cache {plural} per model", "counter")
        spent = Metric(
            f"nv_cache_{what}_duration_per_model", f"Total cache {verb} duration per model, in microseconds", "counter"
        )
        for version in cached:
            duration: Duration = getattr(version.statistics.inference_stats, f"cache_{what}")
            count.add_sample(count.name, _labels(version.config), duration.count)
            spent.add_sample(spent.name, _labels(version.config), duration.ns // 1000)
        yield count
        if latencies.counters:
            yield spent
        if latencies.summaries:
            description = f"Summary of cache {what} counts/durations per model, in microseconds."
            yield _summary(f"nv_cache_{what}_summary_per_model", description, cached, f"cache_{what}", latencies)
    total = ModelStatistics()
    for version in cached:
        total.merge(version.statistics)
    yield from _caches(total)


def _caches(total: ModelStatistics) -> Iterator[Metric]:
    """All caches as if they were one, as it is in Triton; none where nothing is cached (no `--cache-config`)."""
    cache, stats = total.cache, total.inference_stats
    if not cache.size_bytes:
        return
    for what, value, description in (
        ("util", cache.used_bytes / cache.size_bytes, "Cache utilization [0.0 - 1.0]"),
        ("num_entries", cache.entries, "Number of responses stored in response cache"),
        ("num_hits", stats.cache_hit.count, "Number of cache hits in response cache"),
        ("num_misses", stats.cache_miss.count, "Number of cache misses in response cache"),
        ("num_lookups", cache.lookup.count, "Number of cache lookups in response cache"),
        ("num_evictions", cache.evictions, "Number of cache evictions in response cache"),
        ("lookup_duration", cache.lookup.ns // 1000, "Total cache lookup duration (hit and miss), in microseconds"),
        ("insertion_duration", cache.insertion.ns // 1000, "Total cache insertion duration, in microseconds"),
    ):
        family = Metric(f"nv_cache_{what}", description, "gauge")
        family.add_sample(family.name, {}, value)
        yield family


def _first_responses(versions: list[Told]) -> Iterator[Metric]:
    decoupled = [version for version in versions if version.config.model_transaction_policy.decoupled]
    if not decoupled:
        return
    name = "nv_inference_first_response_histogram_ms"
    family = Metric(name, "Duration from request to first response in milliseconds", "histogram")
    for version in decoupled:
        labels, observed = _labels(version.config), version.statistics.first_response_ms
        counts = list(accumulate(int(observed.get(bound, 0)) for bound in _FIRST_RESPONSE_BOUNDS))
        _add_histogram(family, labels, zip(_FIRST_RESPONSE_BOUNDS, counts, strict=True), observed.get("sum", 0.0))
    yield family


def _own(versions: list[Told]) -> Iterator[Metric]:
    """What models measure themselves; a family that several define keeps the kind and the text of the first."""
    families: dict[str, Metric] = {}
    for version in versions:
        for metric in version.own:
            family = families.get(metric.family)
            if family is None:
                family = families[metric.family] = Metric(metric.family, metric.description, metric.kind)
            if family.type != metric.kind:
                continue
            if metric.kind == "histogram":
                bounds = [*map(_bound, metric.buckets), "+Inf"]
                _add_histogram(
                    family, metric.labels, zip(bounds, accumulate(metric.counts), strict=False), metric.value
                )
            else:
                family.add_sample(family.name, metric.labels, metric.value)
    yield from families.values()


def _add_histogram(family: Metric, labels: Mapping[str, str], counts: Iterable[tuple[str, int]], total: float) -> None:
    most = 0
    for bound, count in counts:
        family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
        most = count
    family.add_sample(f"{family.name}_count", dict(labels), most)
    family.add_sample(f"{family.name}_sum", dict(labels), total)


def _shown(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _bound(value: float) -> str:
    return f"{value:g}"


def _labels(config: ModelConfig) -> dict[str, str]:
    # A tag without a name is no label.
    tags = {tag: value for tag, value in config.metric_tags.items() if tag}
    return dict(sorted({**tags, "model": config.name, "version": str(config.version)}.items()))


def _escaped(description: str) -> str:
    return description.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', r"\"")
