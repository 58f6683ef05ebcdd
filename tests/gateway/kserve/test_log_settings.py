"""The logging extension, as far as what real Triton answered does not say it already."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from backends.errors import Code, InferenceError
from gateway.kserve import log_settings
from gateway.kserve.log_settings import LogSettings
from gateway.kserve.shared_state import SharedState


@pytest.mark.parametrize(
    ("wanted", "level"),
    [
        ({}, logging.INFO),
        ({"log_verbose_level": 1}, logging.DEBUG),
        ({"log_info": False}, logging.WARNING),
        ({"log_info": False, "log_warning": False}, logging.ERROR),
        ({"log_info": False, "log_warning": False, "log_error": False}, logging.CRITICAL),
    ],
)
def test_the_level_follows_the_settings(wanted: dict[str, object], level: int) -> None:
    settings = LogSettings()
    log_settings.apply(settings, wanted)
    assert settings.level() == level


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", logging.DEBUG), ("info", logging.INFO), ("warning", logging.WARNING), ("error", logging.ERROR)],
)
def test_a_server_tells_the_level_and_the_file_that_it_was_started_with(level: str, expected: int) -> None:
    settings = LogSettings.of(level, Path("/t.log"))
    assert (settings.level(), settings.log_file) == (expected, "/t.log")
    assert LogSettings.of("info", None) == LogSettings()
    assert SharedState(logs=settings).read().logs is settings


def test_a_wrong_value_changes_none_of_the_others() -> None:
    settings = LogSettings()
    for wanted, code in [
        ({"log_info": False, "log_format": "xml"}, Code.UNAVAILABLE),
        ({"log_info": False, "log_verbose_level": -1}, Code.INTERNAL),
        ({"log_info": False, "log_file": "x"}, Code.UNSUPPORTED),
    ]:
        with pytest.raises(InferenceError) as raised:
            log_settings.apply(settings, wanted)
        assert raised.value.status is code
    assert settings == LogSettings()
