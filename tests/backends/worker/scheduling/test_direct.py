from __future__ import annotations

import pytest

from backends.errors import Code, InferenceError
from tests.backends.worker.scheduled import MS
from tests.backends.worker.sequenced import add, asked, run, scheduler, seen


def test_each_sequence_keeps_its_row_and_empty_rows_before_the_last_are_filled():
    made = scheduler()
    add(made, 0, "a!", "b!", "c!")
    assert run(made) == "a! b! c!"
    add(made, 0, "a.", "c")
    assert run(made) == "a. - c"
    add(made, 0, "b")
    assert run(made) == "- b"
    assert run(made) is None


def test_requests_of_a_sequence_run_one_after_the_other_in_their_order():
    made = scheduler()
    add(made, 0, "a!", "a1", "b!", "a.")
    assert [run(made) for _ in range(4)] == ["a! b!", "a1", "a.", None]


def test_the_lowest_free_slot_of_any_instance_is_taken():
    made = scheduler(2, 2)
    add(made, 0, "a!", "b!", "c!", "d!")
    assert run(made, instance=0) == "a! c!"
    assert run(made, instance=1) == "b! d!"
    add(made, 0, "a.", "b.", "c.", "d.")
    assert run(made, instance=1) == "b. d."
    assert run(made, instance=0) == "a. c."


def test_sequences_without_a_slot_wait_for_the_first_that_ends():
    made = scheduler(2)
    add(made, 0, "a!", "b!", "c!", "c1", "d!", "d.")
    assert made.waiting == 6
    assert run(made) == "a! b!"
    assert run(made) is None
    add(made, 0, "b.")
    assert run(made) == "- b."
    assert run(made) == "- c!"
    assert run(made) == "- c1"
    add(made, 0, "a.", "c.")
    assert run(made) == "a. c."
    assert run(made) == "d!"
    assert run(made) == "d."
    assert made.waiting == 0


def test_a_slot_is_free_for_the_next_once_the_end_of_its_sequence_runs():
    made = scheduler(0)
    add(made, 0, "a!", "b!.")
    assert run(made) == "a!"
    assert run(made) is None
    add(made, 0, "a.")
    ending = made.take(0, 0)
    assert seen(ending) == "a."
    assert seen(made.take(0, 0)) == "b!."


def test_a_sequence_that_begins_again_keeps_its_slot():
    made = scheduler()
    add(made, 0, "a!", "b!")
    assert run(made) == "a! b!"
    add(made, 0, "b!", "b.")
    assert run(made) == "- b!"
    assert run(made) == "- b."


def test_a_sequence_that_is_idle_for_too_long_gives_up_its_slot():
    made = scheduler(0)
    add(made, 0, "a!", "b!")
    assert run(made, 200 * MS) == "a!"
    assert made.wake_at() == 1000 * MS
    assert made.expired(1000 * MS) == []
    assert run(made, 1000 * MS) is None
    assert made.wake_at() == 1200 * MS
    assert made.expired(1200 * MS) == []
    assert run(made, 1200 * MS) == "b!"


def test_a_sequence_is_not_idle_while_it_waits_or_runs():
    made = scheduler(0)
    add(made, 0, "a!", "a1")
    running = made.take(0, 0)
    assert made.expired(5000 * MS) == []
    made.done(0, running, 5000 * MS)
    assert made.expired(7000 * MS) == []
    assert run(made, 7000 * MS) == "a1"
    add(made, 7999 * MS, "a2")
    assert run(made, 7999 * MS) == "a2"


def test_a_batch_waits_for_enough_slots_no_longer_than_the_delay():
    made = scheduler(direct={"minimum_slot_utilization": 0.75, "max_queue_delay_microseconds": 300_000})
    add(made, 0, "a!")
    add(made, MS, "b!")
    assert run(made, MS) is None
    assert made.wake_at() == 300 * MS
    add(made, 2 * MS, "c!")
    assert run(made, 2 * MS) == "a! b! c!"
    add(made, 10 * MS, "b")
    assert run(made, 10 * MS) is None
    assert made.wake_at() == 310 * MS
    assert run(made, 310 * MS) == "- b"


def test_requests_of_another_shape_wait_for_the_next_batch():
    made = scheduler(input=[{"name": "X", "dims": [-1]}])
    add(made, 0, "a!", shapes={"X": (1,)})
    add(made, 0, "b!", shapes={"X": (2,)})
    add(made, 0, "c!", shapes={"X": (1,)})
    batch = made.take(0, 0)
    assert seen(batch) == "a! - c!"
    assert [tensor.shape for tensor in batch.tensors if tensor.name == "X"] == [(1, 1)] * 3
    made.done(0, batch, 0)
    assert run(made) == "- b!"


def test_what_fills_an_empty_row_is_zeros_of_the_others_shape():
    made = scheduler(input=[{"name": "X", "dims": [-1]}])
    add(made, 0, "a!", "b!")
    run(made)
    (entry,) = add(made, 0, "b", shapes={"X": (3,)})
    entry.tensors[0].data = b"\1" * 12
    filled = made.take(0, 0).tensors[0]
    assert (filled.name, filled.shape, filled.data) == ("X", (1, 3), bytes(12))


def test_a_request_nobody_wants_is_left_out_of_its_sequence():
    made = scheduler()
    (_, middle, last) = add(made, 0, "a!", "a1", "a2")
    assert made.cancel(middle)
    assert made.waiting == 2
    assert run(made) == "a!"
    assert made.cancel(last)
    assert not made.cancel(middle)
    assert run(made) is None
    add(made, 0, "a.")
    assert run(made) == "a."


def test_without_its_first_request_a_sequence_fails():
    made = scheduler(0)
    first, second, _ = add(made, 0, "a!", "a1", "b!")
    assert made.cancel(first)
    assert made.wake_at() == 0
    ((failed, error),) = made.expired(0)
    assert failed is second
    assert error.message.endswith("must specify the START flag on the first request of the sequence")
    assert run(made) == "b!"
    assert made.waiting == 0


def test_the_end_that_nobody_wants_ends_the_sequence_all_the_same():
    made = scheduler(0)
    add(made, 0, "a!")
    assert run(made) == "a!"
    (end, _) = add(made, 0, "a.", "b!")
    assert made.cancel(end)
    assert run(made) == "b!"


def test_sequences_of_a_dead_instance_fail_and_their_later_requests_are_told_why():
    made = scheduler(2, 2)
    add(made, 0, "a!", "b!", "c!", "d!", "e!")
    made.take(0, 0)
    waiting, *_ = add(made, 0, "a1")
    made.lost(0, 0)
    ((failed, error),) = made.expired(0)
    assert failed is waiting
    assert error.status is Code.UNAVAILABLE
    assert error.message == (
        "sequence 1 of model 'm' was lost with the instance that served it; begin it again with the START flag"
    )
    for later in ("a", "c"):
        with pytest.raises(InferenceError, match="was lost"):
            made.add(asked(later), 0)
    assert run(made, instance=1) == "b! d!"
    assert run(made, instance=1) is None
    assert run(made, instance=0) == "e!"
    add(made, 0, "a!")
    assert run(made, instance=0) == "- a!"


def test_a_request_of_a_dead_instance_is_never_tried_again():
    made = scheduler()
    (entry,) = add(made, 0, "a!")
    made.take(0, 0)
    made.lost(0, 0)
    made.retry(entry, 0)
    ((failed, error),) = made.expired(0)
    assert failed is entry
    assert "was lost" in error.message


def test_sequences_wait_for_an_instance_that_is_there():
    made = scheduler(1, 2, ready=False)
    add(made, 0, "a!", "b!")
    assert run(made, instance=1) == "a!"
    assert run(made, instance=0) == "b!"


def test_a_request_may_be_a_sequence_that_its_model_wants_again_and_again():
    made = scheduler(2, iterative_sequence=True)
    a, b, c = (asked(name, sequence_id=0) for name in ("a!", "b!", "c!"))
    made.add(a, 0)
    batch = made.take(0, 0)
    assert seen(batch) == "a!"
    made.add(b, 0)
    made.add(c, 0)
    a.infer.request_id = "a"
    made.again(a, 0)
    made.done(0, batch, 0)
    batch = made.take(0, 0)
    assert seen(batch) == "a b!"
    assert [entry.infer.sequence_id for entry in batch.entries] == [1, 2]
    b.infer.request_id = "b"
    made.again(b, 0)
    made.done(0, batch, 0)
    assert run(made) == "c! b"
    assert made.waiting == 0
    assert made.wake_at() is None


def test_an_iterative_sequence_that_has_an_id_must_begin():
    made = scheduler(iterative_sequence=True)
    with pytest.raises(InferenceError, match="must specify the START flag"):
        made.add(asked("a"), 0)
    add(made, 0, "a!")
    with pytest.raises(InferenceError, match="must specify the START flag"):
        made.add(asked("a"), 0)


def test_a_request_that_its_model_wants_again_may_be_cancelled_before():
    made = scheduler(0, iterative_sequence=True)
    a, _ = add(made, 0, "a!", "b!")
    batch = made.take(0, 0)
    made.again(a, 0)
    made.done(0, batch, 0)
    assert made.cancel(a)
    assert run(made) == "b!"
