"""Errors that a caller can act on; every message is written for the client."""

from __future__ import annotations

from enum import StrEnum


class ServingError(Exception):
    """A request could not be served.

    `message` names the model, the value and the limit; `param` is the request field at fault, `code` a
    stable word for programs (OpenAI's `error.code`), `retry_after_seconds` an honest wait, where one is known.
    """

    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code


class InvalidRequest(ServingError):
    """The request itself is wrong: sending it again cannot help."""


class BodyTooLarge(InvalidRequest):
    """The body is over the configured limit."""

    code = "request_too_large"


class NotAuthenticated(ServingError):
    """No API key, or one that is not known."""

    code = "invalid_api_key"


class NotPermitted(ServingError):
    """Whoever asks may not have this, whichever key they bring."""

    code = "not_permitted"


class ModelNotFound(ServingError):
    """No model of that name; the message lists the nearest names."""

    code = "model_not_found"


class NotFound(ServingError):
    """Nothing of that id is kept here."""

    code = "not_found"


class UnsupportedOperation(InvalidRequest):
    """The model exists but does not offer this operation; the message names those it has."""

    code = "unsupported_operation"


class DeadlineExceeded(ServingError):
    """The request's own deadline (the client's or the server's) passed."""

    code = "request_timeout"


class Unavailable(ServingError):
    """Not now: the same request may succeed later."""

    code = "service_unavailable"


class ModelNotReady(Unavailable):
    """The model exists but no endpoint of it is ready."""

    code = "model_not_ready"


class Overloaded(Unavailable):
    """Every permit and every queue place of the model is taken."""

    code = "overloaded"


class RateLimited(ServingError):
    """A limit of the tenant's is reached. `is_final`: the request asks for more than it could ever have."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, is_final: bool = False) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.is_final = is_final


class UpstreamError(ServingError):
    """The engine failed: its connection broke or it gave no usable answer."""

    code = "engine_error"


class UpstreamTimeout(UpstreamError):
    """The engine was silent for too long."""

    code = "engine_timeout"


class UpstreamProtocolError(UpstreamError):
    """The engine's bytes are not the HTTP or the event stream that was asked for."""

    code = "engine_protocol_error"


class Code(StrEnum):
    """Triton's error codes (`TRITONSERVER_Error_Code`), which a model's own errors carry."""

    UNKNOWN = "UNKNOWN"
    INTERNAL = "INTERNAL"
    NOT_FOUND = "NOT_FOUND"
    INVALID_ARG = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    UNSUPPORTED = "UNSUPPORTED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CANCELLED = "CANCELLED"


class InferenceError(ServingError):
    """An inference failed, or was refused, with one of Triton's codes and in Triton's words."""

    def __init__(self, message: str, status: Code = Code.INTERNAL) -> None:
        super().__init__(message, code=status.value.lower())
        self.status = status
