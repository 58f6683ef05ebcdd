from __future__ import annotations

import gc

import numpy as np
import pytest

from backends import tensors
from backends.worker.loaders.python import dlpack
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.tensor import Tensor


def received(datatype: str, shape: tuple[int, ...], data: bytes) -> Tensor:
    return Tensor.received(tensors.Tensor("x", datatype, shape, memoryview(bytearray(data))))


@pytest.mark.parametrize(
    ("dtype", "datatype", "number"),
    [
        ("bool", "BOOL", 1),
        ("uint8", "UINT8", 2),
        ("uint16", "UINT16", 3),
        ("uint32", "UINT32", 4),
        ("uint64", "UINT64", 5),
        ("int8", "INT8", 6),
        ("int16", "INT16", 7),
        ("int32", "INT32", 8),
        ("int64", "INT64", 9),
        ("longlong", "INT64", 9),
        ("float16", "FP16", 10),
        ("float32", "FP32", 11),
        ("float64", "FP64", 12),
    ],
)
def test_an_array_goes_out_and_comes_back_as_it_was(dtype, datatype, number):
    array = np.array([[0, 1], [1, 0], [1, 1]], dtype)
    wire = Tensor("x", array).wire()
    assert (wire.name, wire.datatype, wire.shape, bytes(wire.data)) == ("x", datatype, (3, 2), array.tobytes())
    back = received(wire.datatype, wire.shape, bytes(wire.data))
    assert back.triton_dtype() == number
    assert back.as_numpy().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.as_numpy(), array)


def test_a_model_may_write_into_its_input_and_sees_the_same_array_each_time():
    buffer = bytearray(8)
    tensor = Tensor.received(tensors.Tensor("x", "INT32", (2,), memoryview(buffer)))
    tensor.as_numpy()[:] = 7
    assert buffer == b"\7\0\0\0\7\0\0\0"
    assert tensor.as_numpy() is tensor.as_numpy()


def test_an_array_of_its_own_is_given_back_itself():
    array = np.arange(3)
    assert Tensor("x", array).as_numpy() is array


def test_large_arrays_are_sent_from_their_own_memory():
    array = np.zeros((1000, 1000), np.float32)
    data = Tensor("x", array).wire().data
    assert np.shares_memory(np.frombuffer(data, np.float32), array)


def test_arrays_in_another_order_are_sent_in_row_major_order():
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    wire = Tensor("x", array).wire()
    assert wire.shape == (3, 2)
    assert np.frombuffer(wire.data, np.int32).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 1)])
def test_every_shape_passes(shape):
    tensor = Tensor("x", np.zeros(shape, np.float64))
    wire = tensor.wire()
    back = received("FP64", wire.shape, bytes(wire.data))
    assert tensor.shape() == back.shape() == list(shape)
    assert back.as_numpy().shape == shape


def test_what_begins_at_an_odd_address_is_aligned_for_the_model():
    whole = memoryview(bytearray(9))
    tensor = Tensor.received(tensors.Tensor("x", "FP64", (1,), whole[1:]))
    assert tensor.as_numpy().flags.aligned
    assert tensor.as_numpy().flags.writeable


def test_elements_of_bytes_keep_every_byte():
    array = np.array([[b"a", b""], [b"c\0", "é".encode()]], dtype=object)
    wire = Tensor("x", array).wire()
    assert bytes(wire.data) == b"\1\0\0\0a\0\0\0\0\2\0\0\0c\0\2\0\0\0\xc3\xa9"
    back = received("BYTES", (2, 2), bytes(wire.data)).as_numpy()
    assert back.dtype == object
    assert back.tolist() == array.tolist()


def test_other_objects_are_sent_as_their_text():
    assert bytes(Tensor("x", np.array([1, "é", None], dtype=object)).wire().data) == (
        b"\1\0\0\x001\2\0\0\0\xc3\xa9\4\0\0\0None"
    )


def test_arrays_of_fixed_bytes_are_sent_as_bytes():
    wire = Tensor("x", np.array([b"ab", b"c"])).wire()
    assert (wire.datatype, bytes(wire.data)) == ("BYTES", b"\2\0\0\0ab\1\0\0\0c")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(1, np.complex64),
        np.array(["text"]),
        np.zeros(1, "datetime64[s]"),
        np.zeros(1, ">i4"),
        np.zeros(1, np.longdouble),
    ],
)
def test_types_that_triton_has_not_are_refused(array):
    with pytest.raises(TritonModelException, match=r"^NumPy dtype is not supported\.$"):
        Tensor("x", array)


def test_a_tensor_needs_a_name_and_an_array():
    with pytest.raises(TritonModelException, match=r"^Tensor name cannot be an empty string\.$"):
        Tensor("", np.zeros(1))
    with pytest.raises(TypeError):
        Tensor("x", [1, 2])


def test_dlpack_shares_memory_both_ways():
    array = np.arange(4, dtype=np.float32)
    tensor = Tensor("x", array)
    assert np.shares_memory(np.from_dlpack(tensor), array)
    taken = Tensor.from_dlpack("y", array).as_numpy()
    assert np.shares_memory(taken, array)
    assert Tensor.from_dlpack("z", tensor.to_dlpack()).as_numpy().tolist() == [0, 1, 2, 3]
    assert tensor.__dlpack_device__() == (1, 0)
    assert tensor.is_cpu()


def test_what_dlpack_gave_lives_as_long_as_its_array():
    taken = Tensor.from_dlpack("y", np.arange(1000)).as_numpy()
    gc.collect()
    assert taken.tolist() == list(range(1000))
    assert Tensor.from_dlpack("y", np.zeros((0, 3), bool)).shape() == [0, 3]


def test_bf16_passes_by_dlpack_alone():
    tensor = received("BF16", (2,), b"\x80\x3f\x00\x40")
    assert tensor.triton_dtype() == 14
    with pytest.raises(TritonModelException, match="Tensor dtype is BF16 and cannot be converted to NumPy"):
        tensor.as_numpy()
    again = Tensor.from_dlpack("y", tensor.to_dlpack())
    assert (again.wire().datatype, bytes(again.wire().data)) == ("BF16", b"\x80\x3f\x00\x40")
    del again
    gc.collect()
    assert not dlpack._exported


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (3, "Provided tensor is not supported"),
        (np.arange(6.0).reshape(2, 3).T, "DLPack tensor is not contiguous"),
        (np.zeros(1, np.complex64), "DLDataType code is not supported"),
    ],
)
def test_dlpack_refuses_what_it_cannot_take(tensor, message):
    with pytest.raises(TritonModelException, match=message):
        Tensor.from_dlpack("x", tensor)


def test_dlpack_refuses_strings_and_nameless_tensors():
    with pytest.raises(TritonModelException, match=r"^DLPack does not have support for string tensors\.$"):
        Tensor("x", np.array([b"a"], dtype=object)).to_dlpack()
    with pytest.raises(TritonModelException, match=r"^Tensor name cannot be an empty string\.$"):
        Tensor.from_dlpack("", np.zeros(1))
