from __future__ import annotations

import pytest

from backends.errors import Code, InferenceError
from backends.worker.scheduling.batcher import Scheduler, scheduler_for
from tests.backends.worker.scheduled import MS, add, config, entry, names


def dynamic(max_batch_size: int = 8, **batching) -> Scheduler:
    return scheduler_for(config(max_batch_size, dynamic_batching=batching), 1)


def shaped(**fields) -> Scheduler:
    return scheduler_for(config(dims=(-1,), dynamic_batching={}, **fields), 1)


def test_without_a_batcher_requests_run_one_at_a_time_in_their_order():
    scheduler = scheduler_for(config(), 2)
    a, b, c = add(scheduler, 0, "a", "b", "c")
    assert scheduler.cancel(b)
    assert scheduler.waiting == 2
    assert [names(scheduler.take(instance, 0)) for instance in (0, 1, 0)] == ["a", "c", None]
    assert not scheduler.cancel(a)
    scheduler.retry(c, 0)
    assert names(scheduler.take(0, 0)) == "c"
    assert scheduler.wake_at() is None
    assert scheduler.expired(0) == []


def test_what_has_arrived_runs_together_and_nothing_waits():
    scheduler = dynamic()
    add(scheduler, 0, "a", "b", "c")
    batch = scheduler.take(0, 0)
    assert names(batch) == "abc"
    assert batch.rows == 3
    assert [message.request_id for message in batch.messages] == ["a", "b", "c"]
    assert [tensor.name for tensor in batch.tensors] == ["X", "X", "X"]
    assert scheduler.take(0, 0) is None
    assert scheduler.waiting == 0


def test_a_batch_is_never_over_the_maximum_and_takes_no_later_one_before_an_earlier():
    scheduler = dynamic(4)
    for name, rows in (("a", 3), ("b", 2), ("c", 1), ("d", 4)):
        add(scheduler, 0, name, rows=rows)
    assert [names(scheduler.take(0, 0)) for _ in range(4)] == ["a", "bc", "d", None]


def test_a_model_without_batch_dimension_runs_one_request_at_a_time():
    scheduler = dynamic(0)
    add(scheduler, 0, "a", "b")
    assert names(scheduler.take(0, 0)) == "a"


def test_a_preferred_size_goes_at_once_and_the_rest_after_it():
    scheduler = dynamic(16, preferred_batch_size=[4, 8], max_queue_delay_microseconds=1000)
    add(scheduler, 0, *"abcdefghij")
    assert names(scheduler.take(0, 0)) == "abcdefgh"
    assert scheduler.take(0, 0) is None
    assert scheduler.wake_at() == MS
    assert names(scheduler.take(0, MS)) == "ij"


def test_without_a_delay_less_than_a_preferred_size_goes_too():
    scheduler = dynamic(16, preferred_batch_size=[4])
    add(scheduler, 0, *"abcdef")
    assert [names(scheduler.take(0, 0)) for _ in range(2)] == ["abcd", "ef"]


def test_a_batch_waits_for_its_oldest_request_no_longer_than_the_delay():
    scheduler = dynamic(max_queue_delay_microseconds=5000)
    add(scheduler, 0, "a")
    assert scheduler.take(0, 0) is None
    add(scheduler, 3 * MS, "b")
    assert scheduler.take(0, 3 * MS) is None
    assert scheduler.wake_at() == 5 * MS
    assert names(scheduler.take(0, 5 * MS)) == "ab"
    assert scheduler.wake_at() is None


def test_a_full_batch_does_not_wait():
    scheduler = dynamic(2, max_queue_delay_microseconds=5000)
    add(scheduler, 0, "a", "b", "c")
    assert names(scheduler.take(0, 0)) == "ab"
    assert scheduler.take(0, 0) is None


def test_requests_that_jump_over_a_preferred_size_wait_for_the_next_one():
    scheduler = dynamic(16, preferred_batch_size=[4, 8], max_queue_delay_microseconds=5000)
    add(scheduler, 0, "a", "b", rows=3)
    assert scheduler.take(0, 0) is None
    add(scheduler, 0, "c", rows=2)
    assert names(scheduler.take(0, 0)) == "abc"


def test_requests_of_other_shapes_end_a_batch_and_send_it():
    scheduler = scheduler_for(config(dims=(-1,), dynamic_batching={"max_queue_delay_microseconds": 5000}), 1)
    add(scheduler, 0, "a", "b", shapes={"X": (3,)})
    assert scheduler.take(0, 0) is None
    add(scheduler, 0, "c", shapes={"X": (4,)})
    assert names(scheduler.take(0, 0)) == "ab"
    assert scheduler.take(0, 0) is None


def test_requests_of_other_inputs_run_apart():
    scheduler = shaped(input=[{"name": "X", "dims": [1]}, {"name": "Y", "dims": [1], "optional": True}])
    add(scheduler, 0, "a", shapes={"X": (1,)})
    add(scheduler, 0, "b", shapes={"X": (1,), "Y": (1,)})
    add(scheduler, 0, "c", shapes={"Y": (1,), "X": (1,)})
    assert [names(scheduler.take(0, 0)) for _ in range(2)] == ["a", "bc"]


def test_ragged_inputs_may_differ_in_shape():
    scheduler = shaped(input=[{"name": "X", "dims": [-1], "allow_ragged_batch": True}])
    add(scheduler, 0, "a", shapes={"X": (1,)})
    add(scheduler, 0, "b", shapes={"X": (2,)})
    assert names(scheduler.take(0, 0)) == "ab"


def test_callers_who_left_are_skipped():
    scheduler = dynamic(2)
    _, b, _ = add(scheduler, 0, "a", "b", "c")
    assert scheduler.cancel(b)
    assert b.tensors == []
    batch = scheduler.take(0, 0)
    assert names(batch) == "ac"
    assert not scheduler.cancel(batch.entries[0])
    assert not scheduler.cancel(b)


def test_those_taken_from_a_dead_instance_go_first_when_they_are_tried_again():
    scheduler = dynamic(2)
    a, b, *_ = add(scheduler, 0, "a", "b", "c")
    scheduler.take(0, 0)
    scheduler.lost(0, 0)
    scheduler.retry(b, 0)
    scheduler.retry(a, 0)
    assert [names(scheduler.take(0, 0)) for _ in range(2)] == ["ab", "c"]


def test_a_request_that_is_refused_leaves_no_trace():
    scheduler = dynamic(default_queue_policy={"max_queue_size": 1}, preserve_ordering=True)
    (a,) = add(scheduler, 0, "a")
    with pytest.raises(InferenceError, match=r"^\[request id: b\] Exceeds maximum queue size$") as refused:
        scheduler.add(entry("b"), 0)
    assert refused.value.status is Code.UNAVAILABLE
    assert names(scheduler.take(0, 0)) == "a"
    assert scheduler.ordering.release(a, 1, True) == [(a, 1)]


def test_a_wait_for_more_ends_when_a_timeout_does():
    policy = {"default_timeout_microseconds": 2000}
    scheduler = dynamic(max_queue_delay_microseconds=5000, default_queue_policy=policy)
    (a,) = add(scheduler, 0, "a")
    assert scheduler.take(0, 0) is None
    assert scheduler.wake_at() == 2 * MS
    assert [(late, error.message) for late, error in scheduler.expired(2 * MS)] == [(a, "Request timeout expired")]
    assert scheduler.wake_at() is None


def test_what_a_model_wants_again_goes_first():
    for scheduler in (dynamic(1), scheduler_for(config(), 1)):
        a, *_ = add(scheduler, 0, "a", "b")
        batch = scheduler.take(0, 0)
        scheduler.again(a, 0)
        scheduler.done(0, batch, 0)
        assert names(scheduler.take(0, 0)) == "a"
