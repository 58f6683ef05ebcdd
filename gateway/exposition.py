"""Counters as Prometheus families: the sum over server processes, and many engines' own metrics as one text.

Counters and histograms are sums over every process there has been, so that none falls when a process ends; gauges
are sums over the living. Names and types follow Prometheus' conventions.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from backends.model import State
from backends.statistics import ModelStatistics
from gateway.histogram import Histogram
from gateway.pipeline_metrics import PipelineTally, families
from gateway.snapshot import ModelStatus
from gateway.telemetry import ModelMetrics, Payload
from gateway.tenant_metrics import sums

DEAD = "dead:"
"""How the key of a payload begins whose process has ended: its totals count, its gauges do not."""

_Key = TypeVar("_Key")
_HISTOGRAMS = ("queue_wait", "ttft", "inter_token", "overhead")


def gateway_families(
    parts: Iterable[tuple[str, Payload]], statuses: Iterable[ModelStatus], version: str
) -> Iterator[Metric]:
    """Everything at `/metrics` that starts with `tritium_`, from each process' key and payload."""
    parts = list(parts)
    living = [(key, payload) for key, payload in parts if not key.startswith(DEAD)]
    totals = _totals(payload for _, payload in parts)
    yield from _model_totals(totals.values())
    yield from _reroutings(totals.values())
    yield from families(((total.name, total.pipeline) for total in totals.values() if total.pipeline), observe)
    yield from _model_gauges(totals, [payload for _, payload in living])
    yield from _process_families(living)
    dropped = CounterMetricFamily("tritium_access_log_lines_dropped", "Access log lines that found no room.")
    dropped.add_metric([], sum(payload.log_lines_dropped for _, payload in parts))
    yield dropped
    yield from _engine_state_families(statuses)
    yield GaugeMetricFamily("tritium_server_processes", "Server processes alive.", value=len(living))
    build = {"version": version, "python": platform.python_version()}
    yield InfoMetricFamily("tritium_build", "What is running.", value=build)


def engine_families(answers: Iterable[tuple[str, str, bytes | None]]) -> Iterator[Metric]:
    """Families of all engines' own metrics, from (model, replica, text or None where the scrape failed).

    Every sample gets `model` and `replica`; a label of that name that it had becomes `exported_…`. Families of
    one name are joined; where engines disagree on a name's type, the first keeps it and the others' is left out.
    """
    up = GaugeMetricFamily(
        "tritium_engine_scrape_up", "Whether the engine's own metrics could be read.", labels=["model", "replica"]
    )
    families: dict[str, Metric] = {up.name: up}
    owners = {up.name: up.name}
    for model, replica, body in answers:
        try:
            parsed = None if body is None else list(text_string_to_metric_families(body.decode()))
        except ValueError:
            parsed = None
        up.add_metric([model, replica], 0 if parsed is None else 1)
        for family in parsed or ():
            _join(families, owners, family, {"model": model, "replica": replica})
    return iter(families.values())


def fold(total: Payload, part: Payload) -> Payload:
    """The totals of two ended processes as one."""
    statistics = statistics_of((total, part))
    for each in statistics.values():
        each.pending = 0
    return Payload(
        models=list(_totals((total, part)).values()),
        connections={},
        lag=total.lag,
        lag_max_seconds=0.0,
        log_lines_dropped=total.log_lines_dropped + part.log_lines_dropped,
        tenants=sums((total.tenants, part.tenants)),
        statistics=statistics,
    )


def statistics_of(payloads: Iterable[Payload]) -> dict[tuple[str, int], ModelStatistics]:
    """What models have done that are counted where they are asked: the sums by name and version."""
    totals: dict[tuple[str, int], ModelStatistics] = {}
    for payload in payloads:
        for key, part in payload.statistics.items():
            totals.setdefault(key, ModelStatistics()).merge(part)
    return totals


def observe(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    """Add one histogram to a family."""
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)


def _join(families: dict[str, Metric], owners: dict[str, str], family: Metric, own: Mapping[str, str]) -> None:
    """Add a family's samples under the name that the text format shows, if all its sample names are its own."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    suffixes = {"histogram": ("", "_bucket", "_count", "_sum"), "summary": ("", "_count", "_sum")}
    names = [name + suffix for suffix in suffixes.get(family.type, ("",))]
    joined = families.get(name)
    disagree = joined is not None and joined.type != family.type
    if not family.samples or disagree or any(owners.get(each, name) != name for each in names):
        return
    if joined is None:
        joined = families[name] = Metric(family.name, family.documentation, family.type)
        owners.update(dict.fromkeys(names, name))
    joined.samples += [sample._replace(labels=_labels(sample.labels, own), timestamp=None) for sample in family.samples]


def _labels(labels: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    renamed = {}
    for name, value in labels.items():
        exported = name
        while exported in own or (exported != name and exported in labels):
            exported = f"exported_{exported}"
        renamed[exported] = value
    return {**renamed, **own}


def _totals(payloads: Iterable[Payload]) -> dict[str, ModelMetrics]:
    """Sums by model over all payloads; the gauges in them are left at 0."""
    totals: dict[str, ModelMetrics] = {}
    for payload in payloads:
        for part in payload.models:
            total = totals.setdefault(part.name, ModelMetrics(part.name))
            _add_dict(total.requests, part.requests)
            _add_dict(total.disconnects, part.disconnects)
            _add_dict(total.rerouted, part.rerouted)
            _add_dict(total.fallbacks, part.fallbacks)
            _add_dict(total.errors, part.errors)
            if part.pipeline is not None:
                total.pipeline = total.pipeline or PipelineTally()
                total.pipeline.add(part.pipeline)
            total.prompt_tokens += part.prompt_tokens
            total.completion_tokens += part.completion_tokens
            for field in _HISTOGRAMS:
                getattr(total, field).add(getattr(part, field))
    return totals


def _add_dict(total: dict[_Key, int], part: Mapping[_Key, int]) -> None:
    for key, value in part.items():
        total[key] = total.get(key, 0) + value


def _model_totals(totals: Iterable[ModelMetrics]) -> Iterator[Metric]:
    by_model = ["model"]
    requests = CounterMetricFamily(
        "tritium_requests", "Requests that have ended.", labels=["model", "endpoint", "status"]
    )
    disconnects = CounterMetricFamily(
        "tritium_client_disconnects", "Clients that left before the end, by phase.", labels=["model", "phase"]
    )
    errors = CounterMetricFamily(
        "tritium_errors", "Requests that the gateway answered with an error, by kind.", labels=["model", "kind"]
    )
    prompt = CounterMetricFamily("tritium_prompt_tokens", "Prompt tokens, as engines count them.", labels=by_model)
    completion = CounterMetricFamily(
        "tritium_completion_tokens", "Generated tokens, as engines count them.", labels=by_model
    )
    wait = HistogramMetricFamily("tritium_queue_wait_seconds", "Time in the model's queue.", labels=by_model)
    ttft = HistogramMetricFamily(
        "tritium_time_to_first_token_seconds", "From arrival to a stream's first bytes.", labels=by_model
    )
    gap = HistogramMetricFamily(
        "tritium_inter_token_latency_seconds", "Between reads of a stream, of one token or more.", labels=by_model
    )
    overhead = HistogramMetricFamily(
        "tritium_gateway_overhead_seconds", "Neither waiting for the engine nor in the queue.", labels=by_model
    )
    for model in totals:
        for (endpoint, status), value in model.requests.items():
            requests.add_metric([model.name, endpoint, str(status)], value)
        for phase, value in model.disconnects.items():
            disconnects.add_metric([model.name, phase], value)
        for kind, value in model.errors.items():
            errors.add_metric([model.name, kind], value)
        prompt.add_metric([model.name], model.prompt_tokens)
        completion.add_metric([model.name], model.completion_tokens)
        observe(wait, [model.name], model.queue_wait)
        observe(ttft, [model.name], model.ttft)
        observe(gap, [model.name], model.inter_token)
        observe(overhead, [model.name], model.overhead)
    yield from (requests, disconnects, errors, prompt, completion, wait, ttft, gap, overhead)


def _reroutings(totals: Iterable[ModelMetrics]) -> Iterator[Metric]:
    """What was done where engines failed: one family a kind, each with every model that had any request."""
    families = {
        "retries": "Requests that were sent to another engine before their first byte.",
        "hedges": "Second attempts for a late first token.",
        "resumes": "Streams that went on in another engine.",
        "ejections": "Engines that requests found failing and that got none for a while.",
    }
    for kind, text in families.items():
        family = CounterMetricFamily(f"tritium_{kind}", text, labels=["model"])
        for model in totals:
            family.add_metric([model.name], model.rerouted.get(kind, 0))
        yield family
    fallbacks = CounterMetricFamily(
        "tritium_fallbacks", "Requests that another model was asked for instead.", labels=["model", "to"]
    )
    for model in totals:
        for other, value in model.fallbacks.items():
            fallbacks.add_metric([model.name, other], value)
    yield fallbacks


def _model_gauges(models: Iterable[str], living: Sequence[Payload]) -> Iterator[Metric]:
    in_flight: Counter[str] = Counter()
    queued: Counter[str] = Counter()
    connections: Counter[tuple[str, str]] = Counter()
    for payload in living:
        for model in payload.models:
            in_flight[model.name] += model.in_flight
            queued[model.name] += model.queued
        for name, (active, idle) in payload.connections.items():
            connections[name, "active"] += active
            connections[name, "idle"] += idle
    flying = GaugeMetricFamily("tritium_requests_in_flight", "Requests under way.", labels=["model"])
    depth = GaugeMetricFamily("tritium_queue_depth", "Requests that wait for a permit.", labels=["model"])
    for name in models:
        flying.add_metric([name], in_flight[name])
        depth.add_metric([name], queued[name])
    upstream = GaugeMetricFamily(
        "tritium_upstream_connections", "Connections to engines, in use or kept alive.", labels=["model", "state"]
    )
    for labels, value in connections.items():
        upstream.add_metric(labels, value)
    yield from (flying, depth, upstream)


def _process_families(living: Iterable[tuple[str, Payload]]) -> Iterator[Metric]:
    lag = HistogramMetricFamily(
        "tritium_event_loop_lag_seconds", "How late a server process' event loop calls back.", labels=["process"]
    )
    longest = GaugeMetricFamily(
        "tritium_event_loop_lag_max_seconds", "The longest lag of the last minute.", labels=["process"]
    )
    for index, payload in living:
        observe(lag, [index], payload.lag)
        longest.add_metric([index], payload.lag_max_seconds)
    yield from (lag, longest)


def _engine_state_families(statuses: Iterable[ModelStatus]) -> Iterator[Metric]:
    restarts: Counter[str] = Counter()
    states: dict[str, set[State]] = {}
    for status in statuses:  # versions of one name count as one
        restarts[status.config.name] += sum(endpoint.restarts for endpoint in status.endpoints)
        states.setdefault(status.config.name, set()).add(status.state)
    restarted = CounterMetricFamily("tritium_engine_restarts", "Restarts of the model's engines.", labels=["model"])
    state = GaugeMetricFamily("tritium_engine_state", "1 for the model's state.", labels=["model", "state"])
    ready = GaugeMetricFamily("tritium_model_ready", "Whether the model can be asked.", labels=["model"])
    for name, now in states.items():
        restarted.add_metric([name], restarts[name])
        ready.add_metric([name], State.READY in now)
        for each in State:
            state.add_metric([name, each.value], each in now)
    yield from (restarted, state, ready)
