"""Tenants' counts as Prometheus families with a bounded number of labels: the top by tokens, the rest `other`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily

from gateway.tenant_metrics import Tally
from gateway.tenants import OTHER

# A newcomer has to lead by so much: two tenants that are level must not take turns.
_LEAD = 1.25


class TenantLabels:
    """Decides who has a label, and under which label each new count goes.

    What was counted since the last look goes to the tenant's label if it has one now, else to `other`, and stays there:
    so no counter falls when a tenant gains or loses its label. One that gains it again goes on where its own stood.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._before: dict[str, Tally] = {}
        self._named: set[str] = set()
        self._labelled: dict[str, Tally] = {}

    def families(self, totals: Mapping[str, Tally]) -> Iterator[Metric]:
        """Everything at `/metrics` that starts with `tritium_tenant_`; `totals` are sums that never fall."""
        self._choose(totals)
        for name, total in totals.items():
            label = name if name in self._named else OTHER
            new = total.since(self._before.get(name, Tally()))
            self._labelled.setdefault(label, Tally()).add(new)
            self._before[name] = total
        shown = {name: self._labelled[name] for name in (*sorted(self._named), OTHER) if name in self._labelled}
        return _families(shown)

    def _choose(self, totals: Mapping[str, Tally]) -> None:
        ranked = sorted(((total.tokens, name) for name, total in totals.items() if name != OTHER), reverse=True)
        for tokens, name in ranked[: self._limit]:
            if name in self._named:
                continue
            if len(self._named) >= self._limit:
                least, weakest = min(((totals[each].tokens, each) for each in self._named), key=itemgetter(0))
                if tokens < least * _LEAD:
                    return
                self._named.remove(weakest)
            self._named.add(name)


def _families(shown: Mapping[str, Tally]) -> Iterator[Metric]:
    labels = ["tenant"]
    requests = CounterMetricFamily("tritium_tenant_requests", "Requests of a tenant that have ended.", labels=labels)
    refusals = CounterMetricFamily("tritium_tenant_refusals", "Requests of a tenant answered with 429.", labels=labels)
    prompt = CounterMetricFamily("tritium_tenant_prompt_tokens", "Prompt tokens of a tenant.", labels=labels)
    completion = CounterMetricFamily("tritium_tenant_completion_tokens", "Generated tokens of a tenant.", labels=labels)
    wait = SummaryMetricFamily(
        "tritium_tenant_queue_wait_seconds", "Time that a tenant's requests waited in queues.", labels=labels
    )
    for name, tally in shown.items():
        requests.add_metric([name], tally.requests)
        refusals.add_metric([name], tally.refusals)
        prompt.add_metric([name], tally.prompt_tokens)
        completion.add_metric([name], tally.completion_tokens)
        wait.add_metric([name], tally.waits, tally.waited_seconds)
    yield from (requests, refusals, prompt, completion, wait)
