"""Engine arguments by the form of their flags."""

from __future__ import annotations

from typing import Any

import pytest

from backends.config import ModelConfig
from backends.engine.flags import Flags, positive
from backends.errors import InvalidRequest

FLAGS = Flags(
    "Some engine",
    values=frozenset({"max_len"}),
    booleans=frozenset({"use_cache"}),
    switches=frozenset({"be_quiet"}),
    lists=frozenset({"sizes"}),
    repeated=frozenset({"plug_in"}),
    reserved=frozenset({"host"}),
)


@pytest.mark.parametrize(
    ("key", "value", "flags"),
    [
        ("max_len", 5, ["--max-len=5"]),
        ("max_len", {"a": [None]}, ['--max-len={"a": [null]}']),
        ("use_cache", True, ["--use-cache"]),
        ("use_cache", False, ["--no-use-cache"]),
        ("be_quiet", True, ["--be-quiet"]),
        ("be_quiet", False, []),
        ("sizes", [1, 2], ["--sizes", "1", "2"]),
        ("sizes", "1", ["--sizes", "1"]),
        ("plug_in", ["a", "b"], ["--plug-in=a", "--plug-in=b"]),
    ],
)
def test_an_argument_takes_the_form_of_its_flag(key: str, value: Any, flags: list[str]) -> None:
    assert list(FLAGS.render(key, value)) == flags


def test_an_engine_may_write_its_names_with_underscores() -> None:
    flags = Flags("Some engine", frozenset({"max_len"}), booleans=frozenset({"use_cache"}), separator="_")
    assert list(flags.render("max_len", 5)) == ["--max_len=5"]
    assert list(flags.render("use_cache", value=False)) == ["--no_use_cache"]


@pytest.mark.parametrize("key", ["use_cache", "be_quiet"])
def test_a_flag_is_true_or_false(key: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Some engine's argument '{key}' is true or false, not 1") as raised:
        list(FLAGS.render(key, 1))
    assert raised.value.param == key


@pytest.mark.parametrize(
    ("key", "words"), [("host", "the gateway itself sets"), ("max_lenght", "Some engine has no engine argument")]
)
def test_what_is_ours_or_nobodys_is_refused_by_name(key: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        FLAGS.check(ModelConfig("m", "b", arguments={key: 1}))
    assert raised.value.param == key


def test_null_is_the_engines_own_default() -> None:
    config = ModelConfig("m", "b", arguments={"max_len": None, "sizes": [1], "extra": 2})
    assert FLAGS.check(config, ours=frozenset({"extra"})) == {"sizes": [1], "extra": 2}


@pytest.mark.parametrize("value", [0, -1, True, "8", None, 1.5])
def test_a_number_must_be_one(value: object) -> None:
    with pytest.raises(InvalidRequest, match="'slots' is not a positive number"):
        positive(ModelConfig("m", "b"), "slots", value)
    assert positive(ModelConfig("m", "b"), "slots", 1) == 1
