from __future__ import annotations

import pytest

from backends.errors import Code, InferenceError
from tests.backends.worker.scheduled import MS
from tests.backends.worker.sequenced import add, asked, run, scheduler

MISSING = "inference request to model 'm' must specify a non-zero or non-empty correlation ID"
UNKNOWN = (
    "inference request for sequence {} to model 'm' must specify the START flag on the first request of the sequence"
)
TOO_MANY_ROWS = "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher"


def refusal(made, entry, now_ns=0) -> str:
    with pytest.raises(InferenceError) as refused:
        made.add(entry, now_ns)
    assert refused.value.status is Code.INVALID_ARG
    return refused.value.message


@pytest.mark.parametrize("nothing", [0, ""])
def test_a_request_without_a_sequence_is_refused(nothing):
    assert refusal(scheduler(), asked("a!", sequence_id=nothing)) == MISSING


@pytest.mark.parametrize("sequence_id", [7, "seven"])
def test_a_sequence_that_has_not_begun_is_refused(sequence_id):
    assert refusal(scheduler(control_input=[]), asked("a", sequence_id=sequence_id)) == UNKNOWN.format(sequence_id)


def test_requests_after_the_end_belong_to_no_sequence():
    made = scheduler()
    add(made, 0, "a!", "a.")
    assert refusal(made, asked("a")) == UNKNOWN.format(1)
    assert run(made) == "a!"


def test_requests_after_an_idle_time_belong_to_no_sequence():
    made = scheduler()
    add(made, 0, "a!")
    assert run(made) == "a!"
    assert refusal(made, asked("a"), 1000 * MS) == UNKNOWN.format(1)


def test_a_request_of_a_sequence_has_one_row():
    assert refusal(scheduler(), asked("a!", rows=2)) == TOO_MANY_ROWS


def test_a_text_is_an_id_where_the_model_takes_numbers_and_is_zero_to_it():
    made = scheduler()
    assert refusal(made, asked("a", sequence_id="one")) == UNKNOWN.format("one")
    made.add(asked("a!", sequence_id="one"), 0)
    batch = made.take(0, 0)
    assert batch is not None
    assert bytes(8) in [bytes(tensor.data) for tensor in batch.tensors]


def test_what_is_known_of_lost_sequences_is_forgotten_in_time():
    made = scheduler()
    add(made, 0, "a!")
    made.take(0, 0)
    made.lost(0, 0)
    with pytest.raises(InferenceError, match="was lost"):
        made.add(asked("a"), 999 * MS)
    assert refusal(made, asked("a"), 1000 * MS) == UNKNOWN.format(1)
    made.lost(0, 1000 * MS)
    assert made._sequences._lost == {}
