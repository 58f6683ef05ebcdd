"""Errors carry what a caller can act on."""

from __future__ import annotations

from backends import errors


def test_an_error_carries_its_message_its_field_its_code_and_its_wait() -> None:
    error = errors.Overloaded("Full.", param="model", code="special", retry_after_seconds=1.5)
    assert str(error) == error.message == "Full."
    assert (error.param, error.code, error.retry_after_seconds) == ("model", "special", 1.5)


def test_the_code_is_the_kinds_own_unless_told() -> None:
    assert errors.Overloaded("Full.").code == "overloaded"
    errors.Overloaded("Full.", code="special")
    assert errors.Overloaded("Full again.").code == "overloaded"
    assert errors.InvalidRequest("No.").code is None


def test_kinds_stand_where_a_caller_looks_for_them() -> None:
    assert issubclass(errors.ModelNotReady, errors.Unavailable)
    assert issubclass(errors.Overloaded, errors.Unavailable)
    assert issubclass(errors.UnsupportedOperation, errors.InvalidRequest)
    assert issubclass(errors.UpstreamTimeout, errors.UpstreamError)
    assert issubclass(errors.UpstreamProtocolError, errors.UpstreamError)
    assert not issubclass(errors.UpstreamError, errors.Unavailable)
