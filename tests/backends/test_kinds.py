"""The table of kinds: every module offers what a kind offers."""

from __future__ import annotations

import inspect

import pytest

from backends.errors import InvalidRequest
from backends.kinds import KINDS, Kind, find_kind


@pytest.mark.parametrize("backend", KINDS)
def test_every_kind_launches_and_connects_as_the_protocol_says(backend: str) -> None:
    kind = find_kind(backend)
    for name in ("launch", "connect"):
        expected = inspect.signature(getattr(Kind, name)).parameters
        actual = inspect.signature(getattr(kind, name)).parameters
        assert list(actual) == list(expected)[1:], name


def test_an_unknown_backend_is_refused_in_tritons_words() -> None:
    with pytest.raises(InvalidRequest, match="unable to find backend library for backend 'abacus', try specifying"):
        find_kind("abacus")
