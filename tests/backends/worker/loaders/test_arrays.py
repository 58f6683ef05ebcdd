from __future__ import annotations

import numpy as np
import pytest

from backends.tensors import ELEMENT_BYTES, Tensor
from backends.worker.loaders.arrays import DTYPES, to_array, to_tensor


def test_there_is_an_array_of_every_datatype():
    assert DTYPES.keys() == ELEMENT_BYTES.keys()
    for datatype, size in ELEMENT_BYTES.items():
        if size:
            assert DTYPES[datatype].itemsize == size


def test_an_array_is_a_view_of_a_tensors_bytes():
    data = bytearray(16)
    array = to_array(Tensor("X", "INT32", (2, 2), data))
    data[0] = 7
    assert array.tolist() == [[7, 0], [0, 0]]


def test_a_tensor_is_a_view_of_an_arrays_rows():
    whole = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensor = to_tensor("Y", "FP32", whole[1:])
    whole[1, 0] = 9
    assert (tensor.shape, to_array(tensor).tolist()) == ((2, 2), [[9, 3], [4, 5]])


def test_an_array_that_is_not_contiguous_is_put_in_order():
    tensor = to_tensor("Y", "INT64", np.arange(6).reshape(2, 3).T)
    assert to_array(tensor).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_tensor_of_nothing_has_no_bytes():
    assert to_tensor("Y", "FP64", np.empty((0, 3))) == Tensor("Y", "FP64", (0, 3), b"")


@pytest.mark.parametrize("given", [["é", "", "b"], [b"\xc3\xa9", b"", b"b"]])
def test_strings_go_through_whether_they_are_characters_or_bytes(given):
    tensor = to_tensor("S", "BYTES", np.array(given, dtype=object).reshape(3, 1))
    assert tensor.data == b"\x02\x00\x00\x00\xc3\xa9\x00\x00\x00\x00\x01\x00\x00\x00b"
    assert to_array(tensor).tolist() == [["é".encode()], [b""], [b"b"]]


@pytest.mark.parametrize("data", [b"\x05\x00\x00\x00ab", b"\x00\x00"])
def test_strings_whose_lengths_do_not_add_up_are_refused(data):
    with pytest.raises(ValueError, match="incomplete string data"):
        to_array(Tensor("S", "BYTES", (1,), data))
