"""Which requests ask for a file search."""

from __future__ import annotations

import pytest

from ensembles.answering.search_options import asks_for_file_search


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"tools": [{"type": "file_search"}]}', True),
        (b'{"input": "\\"file_search\\""}', False),
        (b'{"tools": [{"type": "function", "name": "file_search"}], "x": "file_search"}', False),
        (b'{"tools": "file_search"}', False),
        (b'["file_search"]', False),
        (b'{"file_search"', False),
    ],
)
def test_only_a_tool_of_that_type_asks_for_it(body: bytes, expected: bool) -> None:
    assert asks_for_file_search(body) is expected
