from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.worker.loaders.python.byte_strings import decode, encode


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_decoding_undoes_encoding(elements):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    assert decode(encode(array), (len(elements),)).tolist() == elements


def test_lengths_that_lead_beyond_the_end_are_not_taken():
    with pytest.raises(ValueError, match="reshape array of size 1"):
        decode(b"\1\0\0\0a", (2,))
    with pytest.raises(ValueError, match="an element that ends at 9, in 5 bytes"):
        decode(b"\5\0\0\0a", (-1,))
