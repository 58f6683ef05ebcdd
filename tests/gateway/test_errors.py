"""The table of errors, and OpenAI's envelope around whatever an engine says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import errors
from backends.errors import ServingError
from gateway.errors import TABLE, envelope, from_engine, render, status_and_type

EXPECTED: dict[type[ServingError], tuple[int, str]] = {
    errors.ServingError: (500, "server_error"),
    errors.InvalidRequest: (400, "invalid_request_error"),
    errors.BodyTooLarge: (413, "invalid_request_error"),
    errors.NotAuthenticated: (401, "authentication_error"),
    errors.NotPermitted: (403, "permission_error"),
    errors.ModelNotFound: (404, "invalid_request_error"),
    errors.NotFound: (404, "invalid_request_error"),
    errors.UnsupportedOperation: (400, "invalid_request_error"),
    errors.DeadlineExceeded: (504, "timeout_error"),
    errors.Unavailable: (503, "service_unavailable_error"),
    errors.ModelNotReady: (503, "service_unavailable_error"),
    errors.Overloaded: (429, "rate_limit_error"),
    errors.RateLimited: (429, "rate_limit_error"),
    errors.UpstreamError: (502, "server_error"),
    errors.UpstreamTimeout: (504, "timeout_error"),
    errors.UpstreamProtocolError: (502, "server_error"),
    errors.InferenceError: (500, "server_error"),
}


def every(kind: type[ServingError] = ServingError) -> set[type[ServingError]]:
    own = {kind} if kind.__module__ == errors.__name__ else set()
    return own.union(*(every(child) for child in kind.__subclasses__()))


def test_every_kind_of_error_is_expected_here() -> None:
    assert every() == set(EXPECTED)


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_has_its_status_and_type(kind: type[ServingError]) -> None:
    assert status_and_type(kind("no")) == EXPECTED[kind]


def test_no_line_of_the_table_is_hidden_by_one_above_it() -> None:
    for number, (kind, *_) in enumerate(TABLE):
        assert not any(issubclass(kind, above) for above, *_ in TABLE[:number])


def test_the_envelope_is_openais_and_anthropics_at_once() -> None:
    error = errors.ModelNotFound("The model 'x' does not exist.", param="model")
    assert envelope(error) == {
        "type": "error",
        "error": {
            "message": "The model 'x' does not exist.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        },
    }
    status, headers, body = render(error)
    assert status == 404
    assert headers == [(b"content-type", b"application/json")]
    assert json.loads(body) == envelope(error)


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"),
    [(0.0, b"1", b"1"), (0.2, b"1", b"200"), (1.0, b"1", b"1000"), (2.4, b"3", b"2400")],
)
def test_an_honest_wait_is_told_in_both_units_and_never_too_short(
    seconds: float, whole: bytes, milliseconds: bytes
) -> None:
    _, headers, _ = render(errors.Overloaded("Full.", retry_after_seconds=seconds))
    assert (b"retry-after", whole) in headers
    assert (b"retry-after-ms", milliseconds) in headers


def test_without_a_known_wait_none_is_told() -> None:
    names = {name for name, _ in render(errors.Unavailable("Not now."))[1]}
    assert names == {b"content-type"}


def test_a_passed_deadline_is_not_to_be_tried_again() -> None:
    assert (b"x-should-retry", b"false") in render(errors.DeadlineExceeded("Too late."))[1]
    assert not any(name == b"x-should-retry" for name, _ in render(errors.Overloaded("Full."))[1])


def test_what_is_over_a_limit_by_itself_is_not_to_be_tried_again() -> None:
    assert (b"x-should-retry", b"false") in render(errors.RateLimited("Too much.", is_final=True))[1]
    assert (b"retry-after", b"3") in render(errors.RateLimited("Too many.", retry_after_seconds=2.5))[1]


def test_who_gave_no_known_key_is_told_the_scheme() -> None:
    assert (b"www-authenticate", b"Bearer") in render(errors.NotAuthenticated("Who?"))[1]


def inner(message: str, type_: str, param: Any = None, code: Any = None) -> dict[str, Any]:
    return {"message": message, "type": type_, "param": param, "code": code}


INVALID, SERVER = "invalid_request_error", "server_error"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        # OpenAI's own and vLLM's
        (
            404,
            {"error": {"message": "no such model", "type": "NotFoundError", "param": "model", "code": 404}},
            inner("no such model", "NotFoundError", "model", 404),
        ),
        (400, {"error": {"message": "m", "type": "T", "param": None, "code": "c"}}, inner("m", "T", None, "c")),
        # llama.cpp
        (
            400,
            {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}},
            inner("too long", "exceed_context_size_error", None, 400),
        ),
        # TensorRT-LLM: flat, and a text
        (
            400,
            {"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400},
            inner("m", "BadRequestError", None, 400),
        ),
        (400, {"error": "[{'type': 'extra_forbidden'}]"}, inner("[{'type': 'extra_forbidden'}]", INVALID)),
        # Anthropic
        (
            529,
            {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
            inner("busy", "overloaded_error"),
        ),
        # FastAPI
        (404, {"detail": "Not Found"}, inner("Not Found", INVALID)),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, inner('[{"loc":["body"],"msg":"bad"}]', INVALID)),
        (422, {"detail": {"reason": "bad"}}, inner('{"reason":"bad"}', INVALID)),
        # what nobody should send
        (500, {"error": {"message": {"deep": 1}}}, inner('{"deep":1}', SERVER)),
        (500, {"error": None}, inner("The engine answered 500.", SERVER)),
        (500, {"error": {}}, inner("The engine answered 500.", SERVER)),
        (500, {}, inner("The engine answered 500.", SERVER)),
        (500, [], inner("The engine answered 500.", SERVER)),
        (500, ["a"], inner('["a"]', SERVER)),
        (500, {"error": {"message": "m", "type": 7, "code": [1]}}, inner("m", SERVER)),
        (400, {"error": {"message": "m", "param": ["body", "n"]}}, inner("m", INVALID, '["body","n"]')),
        (500, {"error": {"message": "", "type": ""}}, inner("The engine answered 500.", SERVER)),
        # the type by the status, where the engine names none
        (401, {"error": "Unauthorized"}, inner("Unauthorized", "authentication_error")),
        (403, {"error": "no"}, inner("no", "permission_error")),
        (429, {"error": "slow down"}, inner("slow down", "rate_limit_error")),
        (503, {"error": "loading"}, inner("loading", SERVER)),
    ],
)
def test_any_json_an_engine_fails_with_gets_the_envelope(status: int, body: Any, error: dict[str, Any]) -> None:
    assert from_engine(status, json.dumps(body).encode()) == {"type": "error", "error": error}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"Internal Server Error\n", "Internal Server Error"),
        (b"", "The engine answered 500."),
        (b"  \n", "The engine answered 500."),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"[" * 200_000, "[" * 200_000),
    ],
)
def test_any_text_an_engine_fails_with_becomes_the_message(body: bytes, message: str) -> None:
    assert from_engine(500, body)["error"] == inner(message, SERVER)


@given(st.integers(400, 599), st.binary(max_size=60))
def test_whatever_an_engine_fails_with_the_envelope_is_whole(status: int, body: bytes) -> None:
    error = json.loads(json.dumps(from_engine(status, body)))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"]
