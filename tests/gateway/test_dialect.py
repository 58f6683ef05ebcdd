"""Reading a call: `model` and `stream`, errors that name the field, and how each family's stream says an error."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from gateway.dialect import Call, data_event, named_event, read_call
from gateway.stream_options import read_generation


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model":"m"}', "m", False),
        (b' \n{"input":[1,{"model":"inner","stream":true}],"model" : "a/b"}\n', "a/b", False),
        (b'{"model":"first","model":"last","stream":true}', "last", True),
        (b'{"model":"m","stream":null}', "m", False),
        (b'{"m\\u006fdel":"\\u006d"}', "m", False),
        (b'{"model":"m","unknown":1e400,"huge":123456789012345678901234567890}', "m", False),
    ],
)
def test_model_and_stream_are_read_and_the_body_stays_as_it_is(body: bytes, model: str, stream: bool) -> None:
    assert read_call(body) == Call(model, body, stream)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b'{"model":7}', "model", "invalid_type"),
        (b'{"model":["m"]}', "model", "invalid_type"),
        (b'{"model":"m","stream":"yes"}', "stream", "invalid_type"),
        (b'{"model":"m","stream":1}', "stream", "invalid_type"),
        (b"[1]", None, "invalid_type"),
        (b'"model"', None, "invalid_type"),
        (b"null", None, "invalid_type"),
        (b"{}", "model", "missing_required_parameter"),
        (b'{"model":null}', "model", "missing_required_parameter"),
        (b'{"model":""}', "model", "missing_required_parameter"),
        (b"", None, "invalid_json"),
        (b"model=m", None, "invalid_json"),
        (b'{"model":"m"', None, "invalid_json"),
        (b'{"model":"m"}{}', None, "invalid_json"),
        (b'{"model":"m","t":NaN}', None, "invalid_json"),
        (b"\xef\xbb\xbf{}", None, "invalid_json"),
        (b'{"model":"\xff"}', None, "invalid_json"),
        (b'{"model":"m","deep":' + b"[" * 200_000 + b"]" * 200_000 + b"}", None, "invalid_json"),
    ],
)
def test_what_is_wrong_with_a_body_names_the_field(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_call(body)
    assert (raised.value.param, raised.value.code) == (param, code)
    assert (param or "body") in raised.value.message


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_call_or_an_invalid_request(body: bytes) -> None:
    try:
        call = read_call(body)
    except InvalidRequest:
        return
    assert call.body == body
    assert call.model


def test_an_error_event_is_one_event_in_the_form_of_its_family() -> None:
    envelope = {
        "type": "error",
        "error": {"message": "line\nbreak", "type": "server_error", "param": None, "code": "x"},
    }
    unnamed, named = data_event(envelope), named_event(envelope)
    assert unnamed.count(b"\n\n") == named.count(b"\n\n") == 1
    assert json.loads(unnamed.removeprefix(b"data: ")) == {"error": envelope["error"]}
    name, _, data = named.partition(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == envelope


@pytest.mark.parametrize("reader", [read_call, read_generation])
@pytest.mark.parametrize("limit", ['"many"', "1e3", "null", "[1]", "true", "99999999999999999999999999"])
def test_a_limit_that_is_for_the_engine_to_judge_is_no_error_of_ours(
    reader: Callable[[bytes], Call], limit: str
) -> None:
    call = reader(f'{{"model":"m","max_tokens":{limit},"n":{limit},"cache_salt":{limit}}}'.encode())
    assert call.output_tokens is None or 0 < call.output_tokens <= 1 << 40
