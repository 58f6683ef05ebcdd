from __future__ import annotations

import struct

import pytest

from backends.errors import InvalidRequest
from backends.tensors import Tensor
from tests.backends.worker.sequenced import add, asked, scheduler


def given(batch) -> dict[str, Tensor]:
    """The tensors of a batch's only message by name."""
    (message,) = batch.messages
    return {head.name: tensor for head, tensor in zip(message.inputs, batch.tensors, strict=True)}


def correlation(data_type: str, sequence_id: int | str) -> Tensor:
    control = {"name": "ID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": data_type}]}
    made = scheduler(control_input=[control])
    add(made, 0, "a!", sequence_id=sequence_id)
    return given(made.take(0, 0))["ID"]


@pytest.mark.parametrize(
    ("data_type", "sequence_id", "data"),
    [
        ("TYPE_UINT64", 5, struct.pack("<Q", 5)),
        ("TYPE_INT64", 2**63 + 1, struct.pack("<Q", 2**63 + 1)),
        ("TYPE_UINT32", 2**40 + 7, struct.pack("<I", 7)),
        ("TYPE_INT32", 5, struct.pack("<i", 5)),
        ("TYPE_STRING", "five", b"\4\0\0\0five"),
        ("TYPE_STRING", 5, b"\1\0\0\x005"),
    ],
)
def test_a_model_learns_the_id_of_a_sequence_in_the_type_it_wants(data_type, sequence_id, data):
    tensor = correlation(data_type, sequence_id)
    assert (tensor.shape, tensor.data) == ((1, 1), data)


def test_an_empty_slot_of_a_model_with_text_ids_has_an_empty_one_and_empty_texts():
    control = {"name": "ID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_STRING"}]}
    made = scheduler(control_input=[control])
    add(made, 0, "a!", "b!")
    made.done(0, made.take(0, 0), 0)
    (entry,) = add(made, 0, "b")
    entry.tensors[0].datatype = "BYTES"
    assert [tensor.data for tensor in made.take(0, 0).tensors[:2]] == [bytes(4), bytes(4)]


def test_flags_have_no_batch_dimension_where_the_model_has_none():
    made = scheduler(0)
    add(made, 0, "a!.")
    tensors = given(made.take(0, 0))
    assert {name: tensor.shape for name, tensor in tensors.items() if name != "X"} == {
        "START": (1,),
        "READY": (1,),
        "END": (1,),
        "CORRID": (1,),
    }
    assert (tensors["START"].datatype, tensors["READY"].datatype, tensors["END"].datatype) == ("INT32", "FP32", "BOOL")


STATE = {"input_name": "S", "output_name": "T", "data_type": "TYPE_INT32", "dims": [2]}


def stateful(state=None, **fields):
    return scheduler(control_input=[], state=[STATE | (state or {})], **fields)


def answer(made, entry, *outputs):
    return [tensor.name for tensor in made.states.keep(entry, [Tensor(*output) for output in outputs])]


def test_a_state_comes_back_with_the_next_request_and_begins_as_zeros():
    made = stateful()
    first, second = add(made, 0, "a!", "a1")
    batch = made.take(0, 0)
    state = given(batch)["S"]
    assert (state.datatype, state.shape, state.data) == ("INT32", (1, 2), bytes(8))
    assert answer(made, first, ("Y", "INT32", (1, 1), b""), ("T", "INT32", (1, 3), b"abc")) == ["Y"]
    made.done(0, batch, 0)
    batch = made.take(0, 0)
    state = given(batch)["S"]
    assert (state.shape, state.data) == ((1, 3), b"abc")
    assert answer(made, second, ("Y", "INT32", (1, 1), b"")) == ["Y"]
    made.done(0, batch, 0)
    add(made, 0, "a", "a!")
    batch = made.take(0, 0)
    assert given(batch)["S"].data == b"abc"
    made.done(0, batch, 0)
    assert given(made.take(0, 0))["S"].data == bytes(8)


def test_a_state_that_is_an_output_as_well_reaches_the_caller():
    made = stateful(output=[{"name": "T", "data_type": "TYPE_INT32", "dims": [2]}])
    (entry,) = add(made, 0, "a!")
    made.take(0, 0)
    assert answer(made, entry, ("T", "INT32", (1, 2), bytes(8))) == ["T"]


def test_requests_without_a_sequence_have_no_states():
    assert answer(stateful(), asked("a!"), ("T", "INT32", (1, 2), bytes(8))) == ["T"]


def test_sequences_batched_by_age_keep_states_too():
    made = stateful(oldest={"max_candidate_sequences": 2})
    (entry,) = add(made, 0, "a!")
    batch = made.take(0, 0)
    assert given(batch)["S"].data == bytes(8)
    answer(made, entry, ("T", "INT32", (1, 1), b"x"))
    made.done(0, batch, 0)
    add(made, 0, "a.")
    assert given(made.take(0, 0))["S"].data == b"x"


def initial(**described):
    return {"initial_state": [{"name": "first", "data_type": "TYPE_INT32", "dims": [2]} | described]}


def test_an_initial_state_may_stand_in_a_file(tmp_path):
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "two").write_bytes(b"12345678 and more")
    made = stateful(initial(data_file="two"), path=str(tmp_path / "1"))
    add(made, 0, "a!")
    assert given(made.take(0, 0))["S"].data == b"12345678"


def test_an_initial_state_of_the_wrong_size_is_refused(tmp_path):
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "two").write_bytes(b"123")
    with pytest.raises(InvalidRequest, match="expects 8 bytes, but the data provided from two only has 3 bytes"):
        stateful(initial(data_file="two"), path=str(tmp_path / "1"))


def test_an_initial_state_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match=r"failed to open text file for read .*/initial_state/two: No such file"):
        stateful(initial(data_file="/two"), path=str(tmp_path / "1"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"initial_state": [{}, {}]}, "must contain exactly one or zero element. Found '2' elements."),
        (initial(data_type="TYPE_FP32"), "field of state 'S' does not match the state data type."),
        (initial(name=""), "Field 'name' must be set when using initial_state for state input 'S'."),
        (initial(), "initial_state setting expects state 'S' to have state_data set"),
        (initial(zero_data=True, dims=[2, 1]), "the size of 'state' dimensions for state input 'S'. 2 != 1"),
        (initial(zero_data=True, dims=[-1]), "'initial_state' field for state input name 'S' contains variable"),
        (initial(zero_data=True, dims=[3]), "doesn't match 'state' dim description. 3 != 2"),
    ],
)
def test_an_initial_state_is_described_as_its_state_is(state, words):
    with pytest.raises(InvalidRequest) as refused:
        stateful(state)
    assert words in refused.value.message


@pytest.mark.parametrize("zero_data", [True, False])
def test_an_initial_state_of_zeros_may_have_any_size_that_the_state_may_have(zero_data):
    made = stateful(initial(zero_data=zero_data, dims=[3]) | {"dims": [-1]})
    add(made, 0, "a!")
    assert given(made.take(0, 0))["S"].data == bytes(12)


def test_variable_dimensions_of_a_state_begin_with_one():
    made = stateful({"dims": [-1, 3]})
    add(made, 0, "a!")
    assert given(made.take(0, 0))["S"].shape == (1, 1, 3)
