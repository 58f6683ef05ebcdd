"""JSON values become a tensor's bytes and come back, by either way of reading."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InferenceError
from backends.tensors import Tensor
from gateway.kserve import elements

INTEGERS = {"UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64, "INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64}


@pytest.mark.parametrize("datatype", INTEGERS)
@given(data=st.data())
def test_integers_come_back(datatype: str, data: st.DataObject) -> None:
    bits = INTEGERS[datatype]
    low, high = (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = data.draw(st.lists(st.integers(low, high), max_size=5))
    quickly = elements.read(datatype, msgspec.Raw(msgspec.json.encode(values)))
    assert quickly == elements.collect("A", datatype, [values], len(values))
    assert elements.values(Tensor("A", datatype, (len(values),), quickly[0])) == values


@given(st.lists(st.text(), max_size=5))
def test_texts_come_back(texts: list[str]) -> None:
    quickly = elements.read("BYTES", msgspec.Raw(msgspec.json.encode(texts)))
    assert quickly == elements.collect("A", "BYTES", [texts], len(texts))
    assert elements.values(Tensor("A", "BYTES", (len(texts),), quickly[0])) == texts


def test_truths_and_reals_come_back() -> None:
    assert elements.read("BOOL", msgspec.Raw(b"[true,false]")) == (b"\x01\x00", 2)
    assert elements.collect("A", "BOOL", [[True], [False]], 2) == (b"\x01\x00", 2)
    assert elements.read("FP64", msgspec.Raw(b"[1,0.1]")) == (struct.pack("<2d", 1, 0.1), 2)
    assert elements.collect("A", "FP32", [1, [2.5]], 2) == (struct.pack("<2f", 1, 2.5), 2)
    assert elements.values(Tensor("A", "BOOL", (2,), b"\x01\x00")) == [True, False]


def test_integers_too_large_for_their_type_are_cut_as_triton_does() -> None:
    assert elements.collect("A", "INT8", [300, -129], 2) == (struct.pack("<2b", 44, 127), 2)
    with pytest.raises(OverflowError):
        elements.read("INT8", msgspec.Raw(b"[300]"))


def test_what_comes_after_the_expected_elements_is_counted_alone() -> None:
    assert elements.collect("A", "INT8", [[1], ["x", None]], 1) == (b"\x01", 3)


@pytest.mark.parametrize(
    ("datatype", "value", "words"),
    [
        ("BOOL", 1, "non-boolean as boolean"),
        ("UINT8", -1, "non-unsigned-integer as unsigned-integer"),
        ("INT64", 2**63, "non-signed-integer as signed-integer"),
        ("INT32", True, "non-signed-integer as signed-integer"),
        ("FP32", "x", "non-number as double"),
        ("FP64", 10**400, "Number too big to be stored in double"),
        ("BYTES", 5, "Unable to parse JSON bytes array"),
        ("FP16", 1.5, "receiving FP16 data via JSON is not supported. Please use the binary data format for input A"),
    ],
)
def test_values_of_another_type_are_refused(datatype: str, value: object, words: str) -> None:
    with pytest.raises(InferenceError) as raised:
        elements.collect("A", datatype, [value], 1)
    assert words in raised.value.message


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_not_written_as_json(datatype: str) -> None:
    with pytest.raises(InferenceError, match=f"sending {datatype} data via JSON is not supported"):
        elements.values(Tensor("A", datatype, (1,), b"\x00\x3c"))


def test_lists_in_lists_without_end_are_refused() -> None:
    nested: list[object] = [1]
    for _ in range(2000):
        nested = [nested]
    with pytest.raises(InferenceError, match="Nested too deeply"):
        elements.collect("A", "INT32", nested, 1)
