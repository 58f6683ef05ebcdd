"""What is counted of each tenant in one process."""

from __future__ import annotations

import msgspec

from gateway.access_log import NoLog
from gateway.telemetry import Payload, Telemetry
from gateway.tenant_metrics import Tallies, Tally, sums


def test_requests_are_counted_for_their_tenant_and_nobodys_for_none() -> None:
    telemetry = Telemetry(dict, NoLog())
    for tenant, status in (("a", 200), ("a", 429), ("", 200), ("b", 200)):
        exchange = telemetry.begin("chat_completions", "POST", "/", "", None)
        exchange.tenant = tenant
        exchange.queue()
        exchange.admit()
        exchange.prompt_tokens, exchange.completion_tokens = 5, 3
        exchange.done(status)
    payload = msgspec.msgpack.decode(telemetry.payload(), type=Payload)
    assert payload.tenants.keys() == {"a", "b"}
    tally = payload.tenants["a"]
    assert (tally.requests, tally.refusals, tally.prompt_tokens, tally.completion_tokens) == (2, 1, 10, 6)
    assert tally.waits == 2
    assert tally.waited_seconds > 0


def test_very_many_tenants_share_a_tally() -> None:
    tallies = Tallies()
    for number in range(10_010):
        tallies.of(f"t{number}").count(200, 1, 1, 0.0)
    assert len(tallies.by_name) == 10_001
    assert tallies.by_name["other"].requests == 10


def test_tallies_of_processes_are_added_up_and_stay_as_they_were() -> None:
    one, two = {"a": Tally(requests=1)}, {"a": Tally(requests=2), "b": Tally(requests=3)}
    total = sums([one, two])
    assert (total["a"].requests, total["b"].requests) == (3, 3)
    assert (one["a"].requests, two["b"].requests) == (1, 3)
    assert total["a"].since(one["a"]).requests == 2
