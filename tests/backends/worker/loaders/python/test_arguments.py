from __future__ import annotations

from enum import StrEnum

import numpy as np
import pytest

from backends.worker.loaders.python.arguments import real, text, whole


class Name(StrEnum):
    OUTPUT = "OUTPUT"


@pytest.mark.parametrize("value", [Name.OUTPUT, np.str_("OUTPUT"), b"OUTPUT", "OUTPUT"])
def test_texts_of_every_class_become_plain_ones(value):
    taken = text(value, "name")
    assert taken == "OUTPUT"
    assert type(taken) is str


@pytest.mark.parametrize("value", [3, None, ValueError("x")])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(TypeError, match=f"^name must be str, not {type(value)}$"):
        text(value, "name")


@pytest.mark.parametrize("value", ["\udcff", b"\xff"])
def test_what_is_no_unicode_is_refused(value):
    with pytest.raises(UnicodeError):
        text(value, "name")


def test_numpys_numbers_become_plain_ones():
    assert type(whole(np.uint8(3), "n")) is int
    assert type(real(np.float16(1.5), "n")) is float
    assert (whole(np.uint8(3), "n"), real(np.int64(3), "n"), real(True, "n")) == (3, 3.0, 1.0)


@pytest.mark.parametrize(("take", "value"), [(whole, 1.5), (whole, "1"), (whole, 2**63), (real, "1"), (real, None)])
def test_what_is_no_number_is_refused(take, value):
    with pytest.raises(TypeError):
        take(value, "n")
