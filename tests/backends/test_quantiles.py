"""Quantiles: how near they are, how they add up, when they forget."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.quantiles import Recent

SECOND = 1_000_000_000
WANTED = (0.0, 0.5, 0.9, 0.999, 1.0)


def recent_of(*took_ns: int, now_ns: int = 0) -> Recent:
    recent = Recent()
    for ns in took_ns:
        recent.add(ns, now_ns)
    return recent


@given(st.lists(st.integers(0, 10**14), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_one_percent_of_the_value_of_that_rank(took_ns: list[int], wanted: float) -> None:
    expected = sorted(took_ns)[math.floor(wanted * (len(took_ns) - 1))]
    (found,) = recent_of(*took_ns).quantiles([wanted], 0)
    assert found == pytest.approx(expected, rel=0.0101)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**12), st.integers(0, 90 * SECOND)), max_size=100))
def test_what_two_processes_counted_adds_up_to_what_one_would_have(events: list[tuple[bool, int, int]]) -> None:
    events.sort(key=lambda event: event[2])
    both, first, second = Recent(), Recent(), Recent()
    for is_first, ns, now_ns in events:
        both.add(ns, now_ns)
        (first if is_first else second).add(ns, now_ns)
    first.merge(msgspec.json.decode(msgspec.json.encode(second), type=Recent))
    told = [msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Recent) for one in (first, both)]
    assert str(told[0].quantiles(WANTED, 90 * SECOND)) == str(told[1].quantiles(WANTED, 90 * SECOND))


def test_where_nothing_happened_there_is_no_quantile() -> None:
    assert all(map(math.isnan, Recent().quantiles(WANTED, 0)))


def test_many_events_of_a_batch_count_as_many() -> None:
    recent = recent_of(1_000)
    recent.add(9_000, 0, count=3)
    assert recent.quantiles([0.5], 0) == [pytest.approx(9_000, rel=0.01)]


def test_what_happened_over_a_minute_ago_is_forgotten() -> None:
    recent = recent_of(1_000)
    recent.add(9_000, 50 * SECOND)
    assert recent.quantiles([0.0], 59 * SECOND) == [pytest.approx(1_000, rel=0.01)]
    assert recent.quantiles([0.0], 60 * SECOND) == [pytest.approx(9_000, rel=0.01)]
    assert math.isnan(recent.quantiles([0.0], 120 * SECOND)[0])


def test_five_slots_are_kept_however_long_it_runs() -> None:
    recent = Recent()
    for now_s in range(0, 600, 5):
        recent.add(now_s, now_s * SECOND)
        recent.merge(recent_of(1, now_ns=now_s * SECOND // 2))
    assert len(recent.slots) == 5
