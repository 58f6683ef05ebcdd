"""JSON is read as Triton's parser reads it, and refused in its words."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Code, InferenceError
from gateway.kserve.json import decode, encode, encode_loosely, is_finite

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)


def refusal(text: str | bytes) -> str:
    with pytest.raises(InferenceError) as raised:
        decode(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    assert raised.value.status is Code.INTERNAL
    return raised.value.message.removeprefix("failed to parse the request JSON buffer: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "The document is empty. at 0"),
        (" \n\x00{}", "The document is empty. at 2"),
        ("{} x", "The document root must not be followed by other values. at 3"),
        ("{1:2}", "Missing a name for object member. at 1"),
        ('{"a" 1}', "Missing a colon after a name of object member. at 5"),
        ('{"é":1 "b":2}', "Missing a comma or '}' after an object member. at 8"),
        ("[1 2]", "Missing a comma or ']' after an array element. at 3"),
        ("[1,]", "Invalid value. at 3"),
        ("tru", "Invalid value. at 3"),
        ("Infinit", "Invalid value. at 7"),
        ("1.x", "Miss fraction part in number. at 2"),
        ("1e+", "Miss exponent in number. at 3"),
        ("[1e400]", "Number too big to be stored in double. at 1"),
        ('"a\\x"', "Invalid escape character in string. at 2"),
        ('"\t"', "Invalid escape character in string. at 1"),
        ('"a\\u12"', "Incorrect hex digit after \\u escape in string. at 2"),
        ('"a\\ud800\\u0041"', "The surrogate pair in string is invalid. at 2"),
        ('"abc', "Missing a closing quotation mark in string. at 4"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str, words: str) -> None:
    assert refusal(text) == words


def test_numbers_that_are_none_are_read_and_written() -> None:
    values = decode(b'[NaN,-NaN,Inf,-Infinity,1,-0.5e1,"\\u00e9\\ud83d\\ude00\\n"]')
    assert math.isnan(values[0])
    assert values[2:] == [math.inf, -math.inf, 1, -5.0, "é😀\n"]
    assert encode_loosely(values[2:]) == '[Infinity,-Infinity,1,-5.0,"é😀\\n"]'.encode()
    assert not is_finite(values[:2])
    assert not is_finite([1.0, math.inf])
    assert is_finite([1.0, 2.0])


def test_bytes_that_are_no_text_come_back_as_they_were() -> None:
    assert encode(decode(b'{"a":"\xff\xfe"}')) == b'{"a":"\xff\xfe"}'
    assert encode(decode(b'["\\ude00"]')) == b'["\xed\xb8\x80"]'


def test_of_members_with_one_name_the_scan_takes_the_first() -> None:
    assert decode(b'{"a":1,"a":NaN}') == {"a": 1}


def test_deep_nesting_is_refused_at_any_length() -> None:
    assert refusal(b"[" * 5000).startswith("Nested too deeply.")
    assert refusal(b"[" * 100_000).startswith("Nested too deeply.")


def test_a_long_text_is_refused_with_a_place_and_read_with_its_nans() -> None:
    long = b"[" + b"1," * 40_000
    assert refusal(long + b"x]") == "Invalid value. at 80001"
    assert math.isnan(decode(long + b"NaN]")[-1])


@given(VALUES)
def test_all_that_is_written_is_read_again(value: Any) -> None:
    assert decode(encode_loosely(value)) == value
    assert decode(json.dumps([value, math.nan]).encode())[:-1] == [value]


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(InferenceError):
        decode(data)
