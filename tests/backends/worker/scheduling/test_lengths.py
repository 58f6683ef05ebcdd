from __future__ import annotations

import pytest

from backends.errors import InvalidRequest
from backends.worker.scheduling.batcher import scheduler_for
from tests.backends.worker.scheduled import MS, add, config, names

RAGGED = [{"name": "X", "dims": [-1], "allow_ragged_batch": True}]


def bounded(most_tokens, max_batch_size=8, delay_us=0, also=(), **fields):
    parameters = {"max_batch_tokens": str(most_tokens)} | fields.pop("parameters", {})
    batching = {"max_queue_delay_microseconds": delay_us, **fields}
    described = config(max_batch_size, input=[*RAGGED, *also], dynamic_batching=batching, parameters=parameters)
    return scheduler_for(described, 1)


def lengths(scheduler, now_ns=0, **how):
    for name, length in how.items():
        add(scheduler, now_ns, name, shapes={"X": (length,)})


def test_a_batch_has_no_more_padded_tokens_than_the_bound():
    made = bounded(100)
    lengths(made, a=40, b=40, c=30, d=10)
    assert names(made.take(0, 0)) == "ab"
    assert names(made.take(0, 0)) == "cd"


def test_a_request_over_the_bound_runs_alone():
    made = bounded(100)
    lengths(made, a=10, b=200, c=10)
    assert [names(made.take(0, 0)) for _ in range(3)] == ["ac", "b", None]


def test_requests_of_similar_lengths_run_together_and_the_oldest_always_goes():
    made = bounded(130, max_batch_size=2)
    lengths(made, a=60, b=4, c=5, d=61)
    assert [names(made.take(0, 0)) for _ in range(2)] == ["ad", "bc"]


def test_lengths_of_other_buckets_run_apart():
    made = bounded(10_000, parameters={"length_buckets": "32, 64"})
    lengths(made, a=32, b=33, c=1, d=64, e=500, f=65)
    assert [names(made.take(0, 0)) for _ in range(3)] == ["ac", "bd", "ef"]


def test_the_known_cost_counts_rather_than_the_shape():
    made = bounded(100)
    for name, cost in (("a", 60), ("b", 50), ("c", 40)):
        (added,) = add(made, 0, name, shapes={})
        added.cost = cost
    assert [names(made.take(0, 0)) for _ in range(3)] == ["a", "bc", None]


def test_only_requests_of_the_same_priority_are_chosen_out_of_turn():
    made = bounded(100, priority_levels=2, default_priority_level=1)
    add(made, 0, "a", shapes={"X": (10,)}, priority=2)
    add(made, 0, "b", shapes={"X": (10,)}, priority=1)
    assert [names(made.take(0, 0)) for _ in range(2)] == ["b", "a"]


def test_a_batch_waits_for_more_tokens_no_longer_than_the_delay():
    made = bounded(100, delay_us=5000)
    lengths(made, a=40)
    assert made.take(0, 0) is None
    assert made.wake_at() == 5 * MS
    lengths(made, MS, b=40)
    assert made.take(0, MS) is None
    lengths(made, MS, c=40)
    assert names(made.take(0, MS)) == "ab"
    assert made.take(0, MS) is None
    assert names(made.take(0, 6 * MS)) == "c"


def test_a_batch_with_all_the_tokens_it_may_have_does_not_wait():
    made = bounded(100, delay_us=5000)
    lengths(made, a=100)
    assert names(made.take(0, 0)) == "a"


def test_requests_of_other_inputs_do_not_share_a_batch():
    made = bounded(1000, also=[{"name": "Y", "dims": [1], "optional": True}])
    lengths(made, a=4)
    add(made, 0, "b", shapes={"X": (4,), "Y": (1,)})
    lengths(made, c=4)
    assert [names(made.take(0, 0)) for _ in range(2)] == ["ac", "b"]


@pytest.mark.parametrize(("name", "text"), [("max_batch_tokens", "many"), ("length_buckets", "0,5")])
def test_what_is_no_number_of_tokens_is_refused(name, text):
    with pytest.raises(InvalidRequest, match=f"the parameter {name} is '{text}', not positive numbers"):
        bounded(100, parameters={name: text})
