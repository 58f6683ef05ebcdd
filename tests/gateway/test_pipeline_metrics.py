from __future__ import annotations

import msgspec

from backends.model import Pipelined, Route
from gateway.access_log import NoLog
from gateway.exposition import fold, gateway_families
from gateway.histogram import Histogram
from gateway.pipeline_metrics import STEP_BOUNDS
from gateway.telemetry import Payload, Telemetry


def payload(*done: Pipelined) -> Payload:
    """What a process has counted of these requests."""
    telemetry = Telemetry(dict, NoLog())
    telemetry.know(["handbook", "plain"])
    for each in done:
        exchange = telemetry.begin("chat", "POST", "/", "", None)
        exchange.route("handbook", stream=False)
        exchange.took(Route(pipelined=each))
        exchange.done(200)
    return msgspec.msgpack.decode(telemetry.payload(), type=Payload)


def samples(*payloads: Payload) -> dict[tuple[str, ...], float]:
    parts = [(str(number), each) for number, each in enumerate(payloads)]
    families = gateway_families(parts, (), "0")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("model")
    }


def test_steps_and_what_was_done_without_are_the_sum_over_processes() -> None:
    first = payload(
        Pipelined({"retrieve": 0.02, "rerank": 0.2}, {"rerank": "deadline"}, unknown_markers=2),
        Pipelined({"retrieve": 0.04}, abstained=True),
    )
    second = payload(Pipelined({"retrieve": 7.0}, {"rerank": "deadline", "embed": "overloaded"}))
    found = samples(first, second, payload())
    assert found["tritium_step_seconds_count", "handbook", "retrieve"] == 3
    assert found["tritium_step_seconds_sum", "handbook", "retrieve"] == 7.06
    assert found["tritium_step_seconds_bucket", "handbook", "retrieve", "0.025"] == 1
    assert found["tritium_steps_degraded_total", "handbook", "rerank", "deadline"] == 2
    assert found["tritium_steps_degraded_total", "handbook", "embed", "overloaded"] == 1
    assert found["tritium_unknown_citations_total", "handbook"] == 2
    assert found["tritium_abstentions_total", "handbook"] == 1
    assert ("tritium_abstentions_total", "plain") not in found
    assert samples(fold(first, second)) == samples(first, second)


def test_histograms_add_up() -> None:
    one, other = Histogram.empty(STEP_BOUNDS), Histogram.empty(STEP_BOUNDS)
    one.observe(0.002)
    other.observe(100.0)
    one.add(other)
    assert (sum(one.counts), one.counts[-1], one.sum) == (2, 1, 100.002)
