"""Tables of parameters: refused, dropped, renamed, known; and vLLM's words for constrained output."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.engine.parameters import DROPPED, Fields, Parameters, changed, take_constraint, tell_dropped
from backends.errors import UnsupportedOperation
from backends.model import OpenAIRequest
from tests.backends.bodies import whole

TABLE = Parameters(
    "Some engine",
    refused={"n": (b"1",), "response_format": (b'{"type":"text"}',)},
    dropped=frozenset({"seed"}),
    renamed={"old": "new"},
)
STRICT = Parameters("Strict engine", renamed={"old": "new"}, known=frozenset({"model", "new"}))


def raw(**fields: Any) -> Fields:
    return {key: msgspec.Raw(json.dumps(value).encode()) for key, value in fields.items()}


def plain(fields: Fields) -> Any:
    return json.loads(msgspec.json.encode(fields))


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("response_format", {"type": "json_object"}), ("n", "1")])
def test_what_an_engine_has_not_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnsupportedOperation, match=f"'m' is served by Some engine, which has no '{name}'") as raised:
        TABLE.apply(raw(**{name: value}), "m")
    assert raised.value.param == name


def test_a_value_that_asks_for_nothing_is_taken_out() -> None:
    fields = raw(n=1, response_format={"type": "text"}, temperature=0)
    assert TABLE.apply(fields, "m") == []
    assert plain(fields) == {"temperature": 0}
    fields = raw(n=None)
    assert TABLE.apply(fields, "m") == []
    assert fields == {}


def test_what_is_dropped_is_named_unless_it_is_null() -> None:
    fields = raw(seed=7, other=1)
    assert TABLE.apply(fields, "m") == ["seed"]
    assert plain(fields) == {"other": 1}
    assert TABLE.apply(raw(seed=None), "m") == []


def test_a_strict_engine_gets_only_what_it_knows() -> None:
    fields = raw(model="m", b=1, a=2, c=None)
    assert STRICT.apply(fields, "m") == ["b", "a"]
    assert plain(fields) == {"model": "m"}


@pytest.mark.parametrize(
    ("asked", "sent"), [({"old": 1}, {"new": 1}), ({"old": 1, "new": 2}, {"new": 2}), ({"old": None}, {})]
)
def test_a_field_gets_the_engines_name_unless_that_is_there(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    fields = raw(**asked)
    assert STRICT.apply(fields, "m") == []
    assert plain(fields) == sent


def test_what_was_dropped_goes_along_and_comes_back_as_a_header() -> None:
    asked = OpenAIRequest("/v1/chat/completions", b"{}", "m", stream=False, headers=[(b"x-request-id", b"1")])
    request = changed(asked, raw(a=1), ["seed", "b\u00e9"], "Some engine")
    assert request.body == b'{"a":1}'
    assert request.headers == [(b"x-request-id", b"1"), (DROPPED, b"b\\xe9, seed")]
    answer = whole(b"{}")
    tell_dropped(request, answer)
    assert list(answer.headers) == [*whole(b"{}").headers, (DROPPED, b"b\\xe9, seed")]
    assert changed(asked, raw(a=1), [], "Some engine").headers == asked.headers


@pytest.mark.parametrize(
    ("asked", "constraint"),
    [
        ({"guided_json": {"a": 1}}, ("json", {"a": 1})),
        ({"guided_json": '{"a": 1}'}, ("json", {"a": 1})),
        ({"guided_regex": "a+", "guided_json": None}, ("regex", "a+")),
        ({"structured_outputs": {"grammar": "root"}}, ("grammar", "root")),
        ({"structured_outputs": {"choice": ["a+", "b"]}}, ("regex", r"(a\+|b)")),
    ],
)
def test_the_words_of_vllm_for_a_constraint_are_taken_out(asked: dict[str, Any], constraint: tuple[str, Any]) -> None:
    fields = raw(**asked, model="m")
    found = take_constraint(fields)
    assert found is not None
    assert (found[0], json.loads(bytes(found[1]))) == constraint
    assert plain(fields) == {"model": "m"}


@pytest.mark.parametrize(
    "asked", [{}, {"structured_outputs": {"other": 1}}, {"structured_outputs": 5}, {"guided_choice": "a"}]
)
def test_a_constraint_that_cannot_be_read_stays(asked: dict[str, Any]) -> None:
    fields = raw(**asked)
    assert take_constraint(fields) is None
    assert plain(fields) == asked
