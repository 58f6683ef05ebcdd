"""What is wrong with a body is told of the type that the client meant."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.openai.vector_stores import SearchStore
from gateway.shapes import Added, Shape


def fault(kind: type[Shape], **fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(fields)
    (error, *_) = caught.value.errors()
    return error["msg"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({}, "strings, numbers or booleans"),
        (None, "strings, numbers or booleans"),
        ("v" * 513, "at most 512 characters"),
        ("\0", "should match pattern"),
        (float("nan"), "finite number"),
    ],
)
def test_a_wrong_attribute_is_told_by_its_own_type(value: object, told: str) -> None:
    assert told in fault(Added, file_id="file-1", attributes={"key": value})


def test_attributes_keep_their_types() -> None:
    given = {"a": 1, "b": 1.5, "c": True, "d": "1"}
    kept = Added.model_validate({"file_id": "file-1", "attributes": given}).addition().attributes
    assert [(key, type(value), value) for key, value in kept.items()] == [
        (key, type(value), value) for key, value in given.items()
    ]


@pytest.mark.parametrize(
    ("query", "told"), [([], "at least 1 item"), (["a"] * 21, "at most 20 items"), ("", "at least 1 character")]
)
def test_a_wrong_query_is_told_as_the_text_or_the_list_that_it_is(query: object, told: str) -> None:
    assert told in fault(SearchStore, query=query)
