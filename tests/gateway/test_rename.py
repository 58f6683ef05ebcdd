"""A new name in a body: nothing else in it changes, wherever the name stands."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rename import renamed


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x":1.50}', b'{"model":"new","x":1.50}'),
        (b'{ "x": "\\u00e9", "model" : "a" }', b'{ "x": "\\u00e9", "model" : "new" }'),
        (b'{"text":"\\"model\\":\\"a\\"","model":"a"}', b'{"text":"\\"model\\":\\"a\\"","model":"new"}'),
        (b'{"in":{"model":"a"},"model":"a"}', b'{"in":{"model":"a"},"model":"new"}'),
        (b'{"in":{"model":"a"},"mod\\u0065l":"a"}', b'{"in":{"model":"a"},"model":"new"}'),
        (b'{"model":"b","model":"a"}', b'{"model":"b","model":"new"}'),
    ],
)
def test_only_the_name_at_the_top_is_changed(body: bytes, expected: bytes) -> None:
    assert renamed(body, "new") == expected


@given(st.dictionaries(st.text(), st.none() | st.text() | st.dictionaries(st.text(), st.text())), st.text(min_size=1))
def test_everything_else_stays(fields: dict[str, object], name: str) -> None:
    body = json.dumps({**fields, "model": "old"}).encode()
    assert json.loads(renamed(body, name)) == {**fields, "model": name}
