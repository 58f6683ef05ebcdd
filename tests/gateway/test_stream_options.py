"""Usage forced into streams: spliced in, nothing else touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from gateway.stream_options import read_generation

FORCED = b'"stream_options":{"include_usage":true},'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(max_size=8).filter(lambda name: name not in {"model", "stream", "stream_options"})
SPACE = st.text(" \t\r\n", max_size=3)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b'{"model":"m","stream":false,"stream_options":null}',
        b'{"model":"m","stream":null,"stream_options":{"include_usage":false}}',
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}',
        b'{"stream_options":null,"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        b'{"model":"m","stream":true,"stream":false}',
    ],
)
def test_without_a_stream_or_with_usage_asked_for_the_bytes_are_the_clients(body: bytes) -> None:
    call = read_generation(body)
    assert call.body == body
    assert not call.strip_usage


@given(JSON, st.dictionaries(NAMES, JSON, max_size=4), SPACE, st.booleans(), st.booleans())
def test_usage_is_spliced_in_front_and_no_other_byte_moves(
    inner: Any, fields: dict[str, Any], space: str, is_ascii: bool, is_last: bool
) -> None:
    ours = {
        "stream": True,
        "model": "m",
        "nested": {"model": "n", "stream_options": {"include_usage": True}, "x": inner},
    }
    body = (space + json.dumps(fields | ours if is_last else ours | fields, ensure_ascii=is_ascii) + space).encode(
        "utf-8", "surrogatepass"
    )
    try:
        json.loads(body)
    except UnicodeDecodeError:
        return
    call = read_generation(body)
    start = body.index(b"{") + 1
    assert call.body == body[:start] + FORCED + body[start:]
    assert (call.model, call.stream, call.strip_usage) == ("m", True, True)
    sent = json.loads(call.body)
    assert sent.pop("stream_options") == {"include_usage": True}
    assert sent == json.loads(body)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (b"null", {"include_usage": True}),
        (b"{}", {"include_usage": True}),
        (b'{"include_usage":null}', {"include_usage": True}),
        (b'{ "include_usage" : false }', {"include_usage": True}),
        (
            b'{"include_obfuscation":false,"x":[1.10]}',
            {"include_obfuscation": False, "x": [1.1], "include_usage": True},
        ),
        (b'{"include_usage":true,"include_usage":false}', {"include_usage": True}),
    ],
)
def test_options_without_usage_get_it_and_keep_the_rest(options: bytes, sent: dict[str, Any]) -> None:
    call = read_generation(b'{"seed":1.10,"stream_options": %b,\n"model":"m","stream":true,"big":1e400}' % options)
    assert json.loads(call.body)["stream_options"] == sent
    assert call.strip_usage
    # The values of the other fields are the client's, digit by digit.
    assert b'"seed":1.10,' in call.body
    assert b'"big":1e400' in call.body


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"stream_options":null}',
        b'{"model":"m","stream":true,"stream\\u005foptions":{"include_usage":false}}',
        b'{"model":"m","stream":true,"stream_options":null,"stream\\u005foptions":{}}',
    ],
)
def test_keys_given_twice_or_with_escapes_end_in_one_that_asks_for_usage(body: bytes) -> None:
    call = read_generation(body)
    pairs = json.loads(call.body, object_pairs_hook=lambda pairs: pairs)
    assert [value for key, value in pairs if key == "stream_options"] == [[("include_usage", True)]]
    assert call.strip_usage


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m","stream_options":5}', "stream_options"),
        (b'{"model":"m","stream":true,"stream_options":[]}', "stream_options"),
        (b'{"model":"m","stream":true,"stream_options":{"include_usage":"yes"}}', "stream_options.include_usage"),
        (b'{"model":3,"stream":true}', "model"),
        (b'{"stream":true}', "model"),
        (b'{"model":"m","stream":true', None),
        (b'\xef\xbb\xbf{"model":"m","stream":true}', None),
        (b'{"model":"m","stream":true,"deep":' + b"[" * 200_000 + b"]" * 200_000 + b"}", None),
        (
            b'{"model":"m","stream":true,"stream_options":null,"deep":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}",
            None,
        ),
    ],
)
def test_what_is_wrong_is_an_invalid_request_that_names_the_field(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_generation(body)
    assert raised.value.param == param
    assert (param or "JSON") in raised.value.message
