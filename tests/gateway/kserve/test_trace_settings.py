"""The trace extension, as far as what real Triton answered does not say it already."""

from __future__ import annotations

import pytest

from backends.errors import InferenceError
from gateway.kserve import trace_settings
from gateway.kserve.shared_state import SharedState


def test_a_model_has_the_servers_settings_but_for_its_own() -> None:
    state = SharedState()
    trace_settings.apply(state, "", {"trace_rate": "7", "trace_count": "5"})
    trace_settings.apply(state, "m", {"trace_rate": "3"})
    settings = trace_settings.settings_of(state, "m")
    assert (settings["trace_rate"], settings["trace_count"]) == ("3", "5")
    trace_settings.apply(state, "m", {"trace_rate": None})
    assert trace_settings.settings_of(state, "m")["trace_rate"] == "7"
    trace_settings.apply(state, "m", "no object")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["TENSORS"], ["TENSORS"]),
        (["TENSORS", "LOUD", "TIMESTAMPS", "TENSORS"], ["TIMESTAMPS", "TENSORS"]),
        (["OFF"], ["OFF"]),
        (["LOUD"], ["TIMESTAMPS"]),
        ([], ["TIMESTAMPS"]),
        (None, ["OFF"]),
    ],
)
def test_levels_stand_in_one_order_and_unknown_ones_change_nothing(
    wanted: list[str] | None, expected: list[str]
) -> None:
    state = SharedState(traces={"trace_file": "x"})
    trace_settings.apply(state, "m", {"trace_level": ["TIMESTAMPS"]})
    trace_settings.apply(state, "m", {"trace_level": wanted})
    assert trace_settings.settings_of(state, "m")["trace_level"] == expected


@pytest.mark.parametrize(
    "wanted",
    [
        {"trace_file": "x"},
        {"trace_level": ["TENSORS"]},
        {"trace_level": ["OFF", "TENSORS"]},
        {"trace_rate": str(2**40)},
        {"trace_count": "-2"},
        {"log_frequency": "often"},
    ],
)
def test_a_wrong_trace_setting_is_refused(wanted: dict[str, object]) -> None:
    state = SharedState()
    with pytest.raises(InferenceError):
        trace_settings.apply(state, "", {"trace_count": "9", **wanted})
    assert trace_settings.settings_of(state)["trace_count"] == "-1"
