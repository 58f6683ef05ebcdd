"""The logging extension, as far as what real Triton answered does not say it already."""

from __future__ import annotations

import logging

import pytest

from backends.errors import Code, InferenceError
from gateway.kserve import log_settings
from gateway.kserve.log_settings import LogSettings


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
