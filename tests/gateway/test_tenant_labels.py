"""Labels of tenants: so many at the most, those of the top, and no counter ever falls."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tenant_labels import TenantLabels
from gateway.tenant_metrics import Tally


def scrape(labels: TenantLabels, totals: Mapping[str, int]) -> dict[str, float]:
    """Prompt tokens by label."""
    tallies = {name: Tally(requests=1, prompt_tokens=tokens) for name, tokens in totals.items()}
    return {
        sample.labels["tenant"]: sample.value
        for family in labels.families(tallies)
        for sample in family.samples
        if sample.name == "tritium_tenant_prompt_tokens_total"
    }


def test_the_top_have_labels_and_the_rest_is_other() -> None:
    labels = TenantLabels(2)
    assert scrape(labels, {"a": 100, "b": 50, "c": 10, "d": 5}) == {"a": 100, "b": 50, "other": 15}


def test_who_rises_gets_the_label_of_who_fell_and_only_its_new_counts() -> None:
    labels = TenantLabels(1)
    assert scrape(labels, {"a": 100, "b": 90}) == {"a": 100, "other": 90}
    assert scrape(labels, {"a": 100, "b": 120}) == {"a": 100, "other": 120}  # no lead to speak of
    assert scrape(labels, {"a": 110, "b": 200}) == {"b": 80, "other": 130}
    assert scrape(labels, {"a": 900, "b": 210}) == {"a": 890, "other": 140}  # where its own stood, and more


def test_without_labels_all_are_other_and_without_tenants_there_is_nothing() -> None:
    assert scrape(TenantLabels(0), {"a": 1, "b": 2}) == {"other": 3}
    assert scrape(TenantLabels(5), {}) == {}


@settings(max_examples=100)
@given(st.integers(0, 3), st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 500)), max_size=20))
def test_no_series_falls_none_is_lost_and_there_are_never_too_many(limit: int, steps: list[dict[str, int]]) -> None:
    labels = TenantLabels(limit)
    totals: dict[str, int] = {}
    last: dict[str, float] = {}
    for step in steps:
        for name, more in step.items():
            totals[name] = totals.get(name, 0) + more
        shown = scrape(labels, totals)
        assert len(shown.keys() - {"other"}) <= limit
        for name, value in shown.items():
            assert value >= last.get(name, 0)
            last[name] = value
    assert sum(last.values()) == sum(totals.values())
