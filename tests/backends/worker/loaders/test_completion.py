from __future__ import annotations

import pytest

from backends.config import read
from backends.worker.instance import LoadError
from backends.worker.loaders.completion import library
from tests.backends.worker.instances import document


def test_a_library_that_is_missing_is_told_with_the_line_that_installs_it():
    config = read(document("m"), version=1, path="", arguments={})
    assert library("json", config, "any").loads("1") == 1
    with pytest.raises(LoadError, match=r"model 'm' needs no_such_library.*: pip install 'tritium\[pytorch\]'"):
        library("no_such_library", config, "pytorch")
