"""The one table: kind of error → HTTP status, OpenAI type, Triton's code; and OpenAI's envelope for any error body."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from backends import errors
from backends.errors import Code, InferenceError, ServingError
from backends.model import Headers

# The first class that matches wins, so the special ones stand before the general.
TABLE: tuple[tuple[type[ServingError], int, str, Code], ...] = (
    (errors.BodyTooLarge, 413, "invalid_request_error", Code.INVALID_ARG),
    (errors.InvalidRequest, 400, "invalid_request_error", Code.INVALID_ARG),
    (errors.NotAuthenticated, 401, "authentication_error", Code.INVALID_ARG),
    (errors.NotPermitted, 403, "permission_error", Code.INVALID_ARG),
    (errors.ModelNotFound, 404, "invalid_request_error", Code.NOT_FOUND),
    (errors.NotFound, 404, "invalid_request_error", Code.NOT_FOUND),
    (errors.DeadlineExceeded, 504, "timeout_error", Code.UNAVAILABLE),
    (errors.Overloaded, 429, "rate_limit_error", Code.UNAVAILABLE),
    (errors.RateLimited, 429, "rate_limit_error", Code.UNAVAILABLE),
    (errors.Unavailable, 503, "service_unavailable_error", Code.UNAVAILABLE),
    (errors.UpstreamTimeout, 504, "timeout_error", Code.INTERNAL),
    (errors.UpstreamError, 502, "server_error", Code.INTERNAL),
    (ServingError, 500, "server_error", Code.INTERNAL),
)

STATUS_OF_CODE = {
    Code.UNKNOWN: 400,
    Code.INTERNAL: 500,
    Code.NOT_FOUND: 404,
    Code.INVALID_ARG: 400,
    Code.UNAVAILABLE: 503,
    Code.UNSUPPORTED: 501,
    Code.ALREADY_EXISTS: 400,
    Code.CANCELLED: 400,
}
"""HTTP status of Triton's codes, as its HTTP front end maps them."""

_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def status_and_type(error: ServingError) -> tuple[int, str]:
    if isinstance(error, InferenceError):
        status = STATUS_OF_CODE[error.status]
        return status, _TYPE_BY_STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return next((status, type_) for kind, status, type_, _ in TABLE if isinstance(error, kind))


def triton_code(error: ServingError) -> Code:
    """Triton's code for an error: its own where it has one, else by its kind."""
    if isinstance(error, InferenceError):
        return error.status
    return next(code for kind, _, _, code in TABLE if isinstance(error, kind))


def envelope(error: ServingError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`, with the `type: error` beside it that Anthropic's clients read."""
    fields = {
        "message": error.message,
        "type": status_and_type(error)[1],
        "param": error.param,
        "code": error.code,
    }
    return {"type": "error", "error": fields}


def render(error: ServingError) -> tuple[int, Headers, bytes]:
    """The error as an HTTP answer: status, header fields without the length, body."""
    body = msgspec.json.encode(envelope(error))
    headers = [(b"content-type", b"application/json")]
    wait = error.retry_after_seconds
    if wait is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait))))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(wait * 1000))))
    if isinstance(error, errors.NotAuthenticated):
        headers.append((b"www-authenticate", b"Bearer"))  # a 401 must name a scheme (RFC 9110 §15.5.2)
    if isinstance(error, errors.RateLimited) and error.is_final:
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, errors.DeadlineExceeded):
        headers.append((b"x-should-retry", b"false"))  # the client's time is up: the SDK would spend it again
    return status_and_type(error)[0], headers, body


def from_engine(status: int, body: bytes) -> dict[str, Any]:
    """An engine's error body of whatever shape, in OpenAI's envelope.

    Shapes seen: OpenAI's own; `{"error": {"code": 400, "message", "type"}}` (llama.cpp); `{"error": "text"}` and
    the flat `{"object": "error", "message", "type", "param", "code"}` (TensorRT-LLM); `{"detail": …}` (FastAPI);
    plain text.
    """
    try:
        decoded: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = body.decode("utf-8", "replace").strip()
    fields: dict[str, Any] = {}
    if isinstance(decoded, dict):
        inner = decoded.get("error", decoded.get("detail", decoded))
        fields = inner if isinstance(inner, dict) else {"message": inner}
    elif decoded:
        fields = {"message": decoded}
    message, code, type_ = fields.get("message", fields), fields.get("code"), fields.get("type")
    fallback = _TYPE_BY_STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")
    answer = {
        "message": _text(message) if message else f"The engine answered {status}.",
        "type": type_ if isinstance(type_, str) and type_ else fallback,
        "param": _text(param) if (param := fields.get("param")) is not None else None,
        "code": code if isinstance(code, str | int) else None,
    }
    return {"type": "error", "error": answer}


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
