"""Aliases and fallbacks as parameters: what is read, what is refused, which errors they cover."""

from __future__ import annotations

import pytest

from backends.config import ModelConfig
from backends.engine.naming import Naming, clash, read
from backends.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    ServingError,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)


def configured(**parameters: str) -> ModelConfig:
    return ModelConfig("m", "echo", parameters=parameters)


def test_a_model_has_neither_unless_told() -> None:
    assert read(configured()) == Naming()


def test_lists_are_separated_by_commas() -> None:
    naming = read(configured(aliases="gpt-4o, default", fallbacks="small", fallback_on="429, 5xx"))
    assert naming == Naming(("gpt-4o", "default"), ("small",), frozenset({"429", "5xx"}))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"aliases": "m"}, "'aliases'.*own name"),
        ({"aliases": "a,a"}, "'aliases'.*twice"),
        ({"fallbacks": "other, m"}, "'fallbacks'.*own name"),
        ({"fallback_on": "600"}, "'fallback_on'.*'600'"),
        ({"fallback_on": "200"}, "'200'"),
        ({"fallback_on": "rain"}, "'rain'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(parameters: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(configured(**parameters))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModelNotReady("…"), True),
        (Overloaded("…"), True),
        (UpstreamError("…"), True),
        (UpstreamTimeout("…"), True),
        (Unavailable("…"), True),
        (DeadlineExceeded("…"), False),
        (InvalidRequest("…"), False),
    ],
)
def test_a_failure_that_another_model_may_not_have_is_covered_by_default(error: ServingError, expected: bool) -> None:
    assert read(configured()).covers(error) is expected


def test_only_what_is_listed_is_covered() -> None:
    naming = read(configured(fallback_on="timeout,503"))
    assert naming.covers(UpstreamTimeout("…"))
    assert not naming.covers(UpstreamError("…"))
    assert [naming.covers_status(status) for status in (500, 503, 429)] == [False, True, False]


def test_statuses_of_a_class_are_covered_by_default() -> None:
    assert [Naming().covers_status(status) for status in (200, 400, 404, 429, 500, 503)] == [
        *(False, False, False),
        *(True, True, True),
    ]


def test_no_two_models_answer_to_one_name() -> None:
    taken = [("first", Naming(("fast",)))]
    assert clash(Naming(("quick",)), "second", taken) is None
    assert "'fast'" in str(clash(Naming(("fast",)), "second", taken))
    assert "'first'" in str(clash(Naming(("first",)), "second", taken))
    assert "'first'" in str(clash(Naming(), "fast", taken))
