"""Requests are checked against a configuration in Triton's words, before anything is allocated or run."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from backends.config import Input, ModelConfig, Output, Reshape, SequenceBatching
from backends.errors import Code, InferenceError
from backends.model import InferRequest
from backends.signature import Signature
from backends.tensors import Tensor

UNKNOWN = "[request id: <id_unknown>]"


def numbers(
    name: str = "A", shape: tuple[int, ...] = (1, 4), datatype: str = "INT32", data: bytes | None = None
) -> Tensor:
    return Tensor(name, datatype, shape, bytes(16) if data is None else data)


def signature(*inputs: Input, batch: int = 8, **fields: Any) -> Signature:
    inputs = inputs or (Input("A", "TYPE_INT32", (4,)), Input("B", "TYPE_INT32", (4,)))
    return Signature(
        ModelConfig(
            "m", "python", max_batch_size=batch, input=inputs, output=(Output("O", "TYPE_INT32", (4,)),), **fields
        )
    )


def refusal(taken: Signature, *inputs: Tensor, **fields: Any) -> str:
    with pytest.raises(InferenceError) as raised:
        taken.admit(InferRequest("m", list(inputs), **fields))
    assert raised.value.status is Code.INVALID_ARG
    return raised.value.message


def test_a_request_that_fits_is_admitted_as_it_is() -> None:
    tensors = [numbers(), numbers("B")]
    signature().admit(InferRequest("m", tensors, outputs=["O"]))
    assert [tensor.shape for tensor in tensors] == [(1, 4), (1, 4)]


def test_each_way_not_to_fit_has_its_words() -> None:
    pair = signature()
    assert refusal(pair, numbers()) == (
        f"{UNKNOWN} expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but missing required "
        "input(s) ['B']. Please provide all required input(s)."
    )
    assert refusal(pair, numbers(), numbers(), id="7") == "[request id: 7] input 'A' already exists in request"
    assert refusal(pair, numbers(), numbers("B"), outputs=["X"]) == "unexpected inference output 'X' for model 'm'"
    assert refusal(pair, numbers(), numbers("B"), outputs=["Z", "Y"]) == "unexpected inference output 'Y' for model 'm'"
    assert refusal(pair, numbers(), numbers("X")) == "unexpected inference input 'X' for model 'm'"
    assert refusal(pair, numbers(), numbers("X", (2, 4))) == "unexpected inference input 'X' for model 'm'"
    assert refusal(pair, numbers(), numbers("B", ())).startswith(f"{UNKNOWN} input 'B' has no shape but model requires")
    assert refusal(pair, numbers(), numbers("B", (2, 4))) == (
        f"{UNKNOWN} input 'A' batch size does not match other inputs for 'm'"
    )
    assert refusal(pair, numbers(shape=(9, 4)), numbers("B", (9, 4))) == (
        f"{UNKNOWN} inference request batch-size must be <= 8 for 'm'"
    )
    assert refusal(pair, numbers(shape=(1, 4, 1)), numbers("B")).startswith(f"{UNKNOWN} unexpected shape for input 'A'")
    assert refusal(pair, numbers(datatype="FP32"), numbers("B")) == (
        f"{UNKNOWN} inference input 'A' data-type is 'FP32', but model 'm' expects 'INT32'"
    )
    assert refusal(pair, numbers(shape=(1, 3)), numbers("B")).startswith(
        f"{UNKNOWN} unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [1,3]. NOTE: Setting a non-zero"
    )
    assert refusal(pair, numbers(data=b""), numbers("B")) == (
        f"{UNKNOWN} input byte size mismatch for input 'A' for model 'm'. Expected 16, got 0"
    )
    assert refusal(pair, numbers(shape=(0, 4), data=b""), numbers("B", (0, 4), data=b"")) == (
        f"{UNKNOWN} input byte size mismatch for input 'B' for model 'm'. Expected 16, got 0"
    )


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ((-2, 4), bytes(16), "input byte size mismatch for input 'A' for model 'm'. Expected 68719476704, got 16"),
        (
            (-(2**32), 4),
            bytes(16),
            "unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [-4294967296,4]",
        ),
        ((0, 4), bytes(16), "unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [0,4]"),
        ((1, 4, -1), bytes(16), "unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [1,4,-1]"),
        ((1, -1), bytes(16), "All input dimensions should be specified for input 'A' for model 'm', got [1,-1]"),
    ],
)
def test_no_batch_is_below_zero_or_has_more_than_it_declares(shape: tuple[int, ...], data: bytes, words: str) -> None:
    assert words in refusal(signature(Input("A", "TYPE_INT32", (4,))), numbers(shape=shape, data=data))


def test_no_input_has_fewer_rows_than_the_others() -> None:
    none = numbers("B", (0, 4))
    assert "Expected [-1,4], got [0,4]" in refusal(signature(), numbers(), none)
    assert "Expected [-1,4], got [0,4]" in refusal(signature(), numbers("A", (0, 4)), none)


def test_no_dimension_is_below_zero_though_the_product_is_the_size() -> None:
    wide = signature(Input("A", "TYPE_INT32", (-1, -1)), batch=0)
    assert "Expected [-1,-1], got [-2,-2]" in refusal(wide, numbers(shape=(-2, -2)))
    assert "Expected -16, got 16" in refusal(wide, numbers(shape=(-2, 2)))
    batched = signature(Input("A", "TYPE_INT32", (-1,)))
    assert "Expected [-1,-1], got [-2,0]" in refusal(batched, numbers(shape=(-2, 0), data=b""))


def test_a_declared_size_beyond_all_memory_is_refused_by_its_number() -> None:
    wide = signature(Input("A", "TYPE_INT32", (-1, -1)), batch=0)
    assert refusal(wide, numbers(shape=(2**40, 2**40))).endswith(f"Expected {2**82}, got 16")
    assert "All input dimensions should be specified" in refusal(wide, numbers(shape=(-1, 4)))
    texts = signature(Input("A", "TYPE_STRING", (-1,)), batch=0)
    assert "expected 1099511627776 string elements" in refusal(
        texts, numbers(shape=(2**40,), datatype="BYTES", data=b"")
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected 2 string elements for inference input 'A' for model 'm', got 0"),
        (
            struct.pack("<I", 0) * 3,
            "unexpected number of string elements 3 for inference input 'A' for model 'm', expecting 2",
        ),
        (
            struct.pack("<I", 0) + b"xy",
            "incomplete string length indicator for inference input 'A' for model 'm', expecting 4",
        ),
        (
            struct.pack("<I", 9) + b"abc",
            "expected 2 string elements for inference input 'A' for model 'm', got 1",
        ),
        (
            struct.pack("<II", 0, 9) + b"abc",
            "incomplete string data for inference input 'A', expecting string of length 9 but only 3",
        ),
        (
            struct.pack("<II", 0, 9),
            "incomplete string data for inference input 'A', expecting string of length 9 but only 0",
        ),
        (
            struct.pack("<III", 0, 0, 9),
            "unexpected number of string elements 3 for inference input 'A' for model 'm', expecting 2",
        ),
    ],
)
def test_texts_are_counted(data: bytes, words: str) -> None:
    taken = signature(Input("A", "TYPE_STRING", (2,)), batch=0)
    assert words in refusal(taken, numbers(shape=(2,), datatype="BYTES", data=data))


def test_optional_inputs_may_be_left_out_and_required_ones_not() -> None:
    taken = signature(Input("A", "TYPE_INT32", (4,)), Input("B", "TYPE_INT32", (4,), optional=True))
    taken.admit(InferRequest("m", [numbers()]))
    assert "expected number of inputs between 1 and 2 but got 0" in refusal(taken)
    three = signature(
        Input("A", "TYPE_INT32", (4,)), Input("B", "TYPE_INT32", (4,)), Input("C", "TYPE_INT32", (4,), optional=True)
    )
    assert "missing required input(s) ['B']" in refusal(three, numbers(), numbers("C"))


def test_a_sequence_needs_an_id_and_one_row() -> None:
    taken = signature(Input("A", "TYPE_INT32", (4,)), sequence_batching=SequenceBatching())
    taken.admit(InferRequest("m", [numbers()], sequence_id="s"))
    assert refusal(taken, numbers()) == (
        "inference request to model 'm' must specify a non-zero or non-empty correlation ID"
    )
    two = numbers(shape=(2, 4), data=bytes(32))
    assert refusal(taken, two, sequence_id=1) == (
        "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher"
    )


def test_the_model_sees_its_own_shapes_and_the_caller_those_of_the_configuration() -> None:
    config = ModelConfig(
        "m",
        "python",
        max_batch_size=8,
        input=(Input("A", "TYPE_INT32", (4, -1), Reshape((1, 4, -1))),),
        output=(Output("O", "TYPE_INT32", (4,), Reshape((2, 2))),),
    )
    taken = Signature(config)
    tensor = numbers(shape=(2, 4, 3), data=bytes(96))
    taken.admit(InferRequest("m", [tensor]))
    assert tensor.shape == (2, 1, 4, 3)
    output = Tensor("O", "INT32", (2, 2, 2), bytes(32))
    taken.reshape_outputs([output])
    assert taken.reshapes_outputs
    assert output.shape == (2, 4)


def test_bytes_without_a_shape_are_the_only_input() -> None:
    assert signature(Input("A", "TYPE_FP32", (-1,))).raw(bytes(8)) == Tensor("A", "FP32", (1, 2), bytes(8))
    assert signature(Input("A", "TYPE_STRING", (1,)), batch=0).raw(b"hi").data == b"\x02\x00\x00\x00hi"
    for taken, data, words in [
        (signature(), b"", "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs"),
        (signature(Input("A", "TYPE_FP32", (-1, -1))), b"", "more than one variable-sized dimension"),
        (signature(Input("A", "TYPE_STRING", (2,))), b"", "For BYTE datatype raw input 'A', the model must have"),
        (signature(Input("A", "TYPE_FP32", (2,))), bytes(9), "for input 'raw_input' for model 'm'. Expected 8, got 9"),
    ]:
        with pytest.raises(InferenceError) as raised:
            taken.raw(data)
        assert words in raised.value.message
