from __future__ import annotations

import pytest

from backends.errors import Code
from tests.backends.worker.scheduled import MS
from tests.backends.worker.sequenced import add, run, scheduler, seen


def oldest(max_batch_size: int = 4, instances: int = 1, **strategy):
    strategy = {"max_candidate_sequences": 4} | strategy
    return scheduler(max_batch_size, instances, oldest=strategy)


def test_one_request_of_each_sequence_runs_in_order_of_arrival():
    made = oldest()
    add(made, 0, "a!", "a1", "b!", "c!", "b.", "c.")
    assert run(made) == "a! b! c!"
    assert run(made) == "a1 b. c."
    assert made.waiting == 0
    assert run(made) is None


def test_a_sequence_goes_on_when_its_request_before_has_run():
    made = oldest()
    add(made, 0, "a!", "a1")
    running = made.take(0, 0)
    add(made, 0, "b!", "b.")
    assert seen(made.take(0, 0)) == "b!"
    made.done(0, running, 0)
    assert seen(made.take(0, 0)) == "a1"


def test_no_more_sequences_than_candidates_take_part():
    made = oldest(max_candidate_sequences=2)
    add(made, 0, "a!", "b!.", "c!")
    assert run(made) == "a! b!."
    assert run(made) == "c!"


@pytest.mark.parametrize("candidates", [0, -1])
def test_a_batch_of_sequences_takes_part_where_no_number_is_given(candidates):
    made = oldest(max_batch_size=2, max_candidate_sequences=candidates)
    add(made, 0, "a!", "b!.", "c!")
    assert run(made) == "a! b!."


def test_batches_wait_for_a_preferred_size_no_longer_than_the_delay():
    made = oldest(max_candidate_sequences=2, preferred_batch_size=[2], max_queue_delay_microseconds=100_000)
    add(made, 0, "a!")
    assert run(made) is None
    add(made, 40 * MS, "b!.", "c!.")
    assert run(made, 40 * MS) == "a! b!."
    assert run(made, 50 * MS) is None
    assert made.wake_at() == 140 * MS
    assert run(made, 140 * MS) == "c!."


def test_sequences_keep_to_their_instance():
    made = oldest(2, 2, max_candidate_sequences=1)
    add(made, 0, "a!", "b!", "a.", "b.")
    assert [run(made, instance=0), run(made, instance=0)] == ["a!", "a."]
    assert [run(made, instance=1), run(made, instance=1)] == ["b!", "b."]


def test_a_request_nobody_wants_makes_way_for_the_next_of_its_sequence():
    made = oldest()
    first, second, third = add(made, 0, "a!", "a1", "a2")
    assert run(made) == "a!"
    assert made.cancel(second)
    assert run(made) == "a2"
    assert not made.cancel(third)
    add(made, 0, "b!", "b1", "b.")
    assert not made.cancel(first)
    assert run(made) == "b!"


def test_without_its_first_request_a_sequence_fails():
    made = oldest(max_candidate_sequences=1)
    first, second, _ = add(made, 0, "a!", "a1", "b!")
    assert made.cancel(first)
    assert [failed for failed, _ in made.expired(0)] == [second]
    assert run(made) == "b!"
    assert made.waiting == 0


def test_sequences_of_a_dead_instance_fail():
    made = oldest(4, 2, max_candidate_sequences=1)
    one, two, *_ = add(made, 0, "a!", "a1", "b!", "c!")
    made.lost(0, 0)
    failed = made.expired(0)
    assert [entry for entry, _ in failed] == [one, two]
    assert {error.status for _, error in failed} == {Code.UNAVAILABLE}
    assert run(made, instance=1) == "b!"
    assert run(made, instance=0) == "c!"


def test_an_idle_sequence_makes_room():
    made = oldest(max_candidate_sequences=1)
    add(made, 0, "a!", "b!")
    assert run(made) == "a!"
    assert made.wake_at() == 1000 * MS
    made.expired(1000 * MS)
    assert run(made, 1000 * MS) == "b!"


def test_answers_keep_the_order_of_their_requests_where_that_is_wanted():
    made = oldest(preserve_ordering=True)
    a, b = add(made, 0, "a!", "b!")
    assert made.ordering.release(b, 2, True) == []
    assert made.ordering.release(a, 1, True) == [(a, 1), (b, 2)]


def test_a_request_of_a_dead_instance_is_never_tried_again():
    made = oldest()
    (entry,) = add(made, 0, "a!")
    made.take(0, 0)
    made.lost(0, 0)
    made.retry(entry, 0)
    assert [failed for failed, _ in made.expired(0)] == [entry]


def test_a_request_that_its_model_wants_again_joins_the_next_batch():
    made = scheduler(4, iterative_sequence=True, oldest={"max_candidate_sequences": 2})
    _, b, _ = add(made, 0, "a!", "b!", "c!")
    batch = made.take(0, 0)
    assert seen(batch) == "a! b!"
    b.infer.request_id = "b"
    made.again(b, 0)
    made.done(0, batch, 0)
    assert run(made) == "b c!"
