"""Filters are read whole or refused with what is wrong."""

from __future__ import annotations

import math

import pytest

from backends.errors import InvalidRequest
from ensembles.stores.filters import Comparison, Compound, read


def test_comparisons_and_compounds_are_read():
    found = read(
        {
            "type": "or",
            "filters": [
                {"type": "eq", "key": "a", "value": True},
                {"type": "and", "filters": [{"type": "in", "key": "b", "value": ["x", 2]}]},
            ],
        }
    )
    members = [Comparison("eq", "a", True), Compound("and", [Comparison("in", "b", ["x", 2])])]
    assert found == Compound("or", members)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("x", "must be an object"),
        ({"type": "and"}, "needs a list of 'filters'"),
        ({"type": "or", "filters": []}, "needs a list of 'filters'"),
        ({"type": "like", "key": "a", "value": "b"}, "like"),
        ({"type": "eq", "value": "b"}, "key"),
        ({"type": "eq", "key": "a", "value": None}, "null"),
        ({"type": "eq", "key": "a", "value": ["b"]}, "needs a string, a number or a boolean"),
        ({"type": "nin", "key": "a", "value": "b"}, "needs a list"),
        ({"type": "lt", "key": "a", "value": math.inf}, "finite"),
        ({"type": "eq", "key": "a", "value": "\ud800"}, "valid Unicode"),
        ({"type": "in", "key": "\ud800", "value": [1]}, "valid Unicode"),
        ({"type": "in", "key": "a", "value": [1.0, math.nan]}, "finite"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(value, what):
    with pytest.raises(InvalidRequest, match=what):
        read(value)


def test_filters_are_nested_so_deep_and_no_deeper():
    def nested(depth):
        value = {"type": "eq", "key": "a", "value": "b"}
        for _ in range(depth):
            value = {"type": "and", "filters": [value]}
        return value

    read(nested(16))
    with pytest.raises(InvalidRequest, match="16 deep"):
        read(nested(17))
