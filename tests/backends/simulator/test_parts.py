"""The parts by themselves: least instances, slots, options, tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.simulator import text
from backends.simulator.options import Options, flags, parser, read
from backends.simulator.plan import Limits, plan
from backends.simulator.schema import instance


@pytest.mark.parametrize(
    ("schema", "least"),
    [
        ({"type": "string", "minLength": 2}, "xx"),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "minimum": 0.5}, 1.0),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"type": ["string", "null"]}, ""),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"type": "object", "properties": {"a": {}, "b": {"type": "string"}}, "required": ["b"]}, {"b": ""}),
        ({"properties": {"a": {"const": 1}}, "required": ["a"]}, {"a": 1}),
        ({"enum": ["red", "blue"]}, "red"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 0),
        ({"oneOf": [{"const": "x"}]}, "x"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "x"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"default": 7}}}, 7),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, None),
        ({}, None),
    ],
)
def test_the_least_instance_of_a_schema(schema: dict[str, Any], least: object) -> None:
    assert instance(schema) == least


@given(st.text())
def test_the_tokens_of_a_text_are_the_text(given: str) -> None:
    assert "".join(text.split(given)) == given
    assert len(text.split(given)) == text.count(given)
    assert text.Vocabulary().decode(text.Vocabulary().encode("")) == ""
    vocabulary = text.Vocabulary()
    assert vocabulary.decode(vocabulary.encode(given)) == given


@given(st.text(alphabet="ab \n", max_size=20), st.text(alphabet="ab ", min_size=1, max_size=3), st.integers(1, 12))
def test_a_stopped_text_is_the_text_up_to_the_stop(message: str, stop: str, limit: int) -> None:
    unstopped = plan(message, Limits(limit))
    stopped = plan(message, Limits(limit, stop=(stop,)))
    assert len(unstopped.tokens) <= limit
    assert stopped.text == unstopped.text.partition(stop)[0]
    assert (stopped.stop_reason == stop) == (stop in unstopped.text)


def test_options_survive_the_command_line() -> None:
    options = Options(tokens=3, ttft_ms=1.5, fault="cut", after=2, start_error="no", ignore_sigterm=True)
    line = vars(parser().parse_args(["--port", "0", "--model", "m", *flags(options)]))
    assert read({name: line[name] for name in Options.__struct_fields__}) == options


@pytest.mark.parametrize(
    "wrong", [{"tokens": -1}, {"slots": 0}, {"ttft_ms": "x"}, {"fault": "x"}, {"fault": "600"}, {"speed": 1}]
)
def test_wrong_options_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        read(wrong)


def test_an_id_that_was_never_given_reads_as_its_number() -> None:
    assert text.Vocabulary().decode([5, 6]) == " 5 6"
