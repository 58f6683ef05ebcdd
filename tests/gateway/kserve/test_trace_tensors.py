"""Tensors in traces: each datatype as Triton writes it, and no more of a large one than is wanted."""

from __future__ import annotations

import struct

import pytest

from backends.tensors import Tensor, join
from gateway.kserve import trace_tensors


def data_of(datatype: str, data: bytes, most_bytes: int = 1024) -> str:
    text: str = trace_tensors.event(1, "A", Tensor("x", datatype, (1,), data), most_bytes)["tensor"]["data"]
    return text


def test_a_tensor_is_told_by_its_name_elements_shape_and_datatype() -> None:
    tensor = Tensor("INPUT0", "INT32", (1, 3), struct.pack("<3i", 1, -2, 3))
    assert trace_tensors.event(7, "TENSOR_QUEUE_INPUT", tensor, 12) == {
        "id": 7,
        "activity": "TENSOR_QUEUE_INPUT",
        "tensor": {"name": "INPUT0", "data": "1,-2,3", "shape": "1,3", "dtype": "INT32"},
    }


@pytest.mark.parametrize(
    ("datatype", "code", "numbers", "expected"),
    [
        ("BOOL", "?", [True, False], "1,0"),
        ("UINT8", "B", [65, 255], "65,255"),
        ("INT8", "b", [66, -128], "66,-128"),
        ("UINT16", "H", [1, 65535], "1,65535"),
        ("INT16", "h", [-1, 32767], "-1,32767"),
        ("UINT32", "I", [2**32 - 1], "4294967295"),
        ("UINT64", "Q", [2**64 - 1], "18446744073709551615"),
        ("INT64", "q", [-1, 2**63 - 1], "-1,9223372036854775807"),
        ("FP16", "e", [1.5, -0.25], "1.5,-0.25"),
        ("FP32", "f", [0.1, 1e10, 1 / 3, 123456789, -0.0, 1e6], "0.1,1e+10,0.333333,1.23457e+08,-0,1e+06"),
        ("FP32", "f", [float("nan"), float("inf"), float("-inf")], "nan,inf,-inf"),
        ("FP64", "d", [1e100, 1e-5, 0.0001], "1e+100,1e-05,0.0001"),
        ("BF16", "H", [0x3FC0, 0xBF80], "1.5,-1"),
    ],
)
def test_numbers_are_formatted_as_triton_does(datatype: str, code: str, numbers: list[float], expected: str) -> None:
    assert data_of(datatype, struct.pack(f"<{len(numbers)}{code}", *numbers)) == expected


def test_texts_stand_in_quotation_marks_and_other_bytes_are_escaped() -> None:
    assert data_of("BYTES", join([b"ab", b"", b"c,d", "é".encode(), b"\xff"])) == r'"ab","","c,d","é","\xff"'


def test_an_empty_tensor_has_no_data() -> None:
    assert data_of("FP32", b"") == data_of("BYTES", b"") == ""


@pytest.mark.parametrize(
    ("datatype", "data", "most_bytes", "expected"),
    [
        ("INT32", struct.pack("<3i", 1, 2, 3), 11, "1,2,..."),
        ("INT32", struct.pack("<3i", 1, 2, 3), 0, "..."),
        ("BYTES", join([b"ab", b"cd"]), 11, '"ab",...'),
        ("BYTES", join([b"ab", b"cd"]), 12, '"ab","cd"'),
    ],
)
def test_what_is_left_out_is_marked(datatype: str, data: bytes, most_bytes: int, expected: str) -> None:
    assert data_of(datatype, data, most_bytes) == expected
