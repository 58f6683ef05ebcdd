"""A repository that is followed: what comes, changes and goes there does so in the fleet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backends.model import State
from tests.gateway.running_fleet import Running, running_fleet
from tests.waiting import eventually_async

pytestmark = pytest.mark.slow  # engines are started and stopped


async def test_a_reload_follows_the_repository(running: Running) -> None:
    running.write("kept")
    running.write("gone")
    assert await running.repository.reload() == {"gone": "loaded", "kept": "loaded", "m": "unchanged"}
    running.write("m", {"slots": 2})
    running.write("kept", {"nonsense": 1})
    (running.folder / "gone" / "config.pbtxt").unlink()
    (running.folder / "gone" / "1" / "model.json").unlink()
    (running.folder / "gone" / "1").rmdir()
    (running.folder / "gone").rmdir()
    outcome = await running.repository.reload()
    assert (outcome["gone"], outcome["m"]) == ("unloaded", "loaded")
    assert "'nonsense'" in outcome["kept"]
    assert running.state("kept") is State.READY


async def test_a_reload_leaves_a_drained_model_to_whoever_drained_it(running: Running) -> None:
    await running.fleet.drain("m")
    running.write("m", {"slots": 2})
    assert await running.repository.reload() == {"m": "drained"}
    assert running.state() is State.STOPPED


async def test_a_reload_in_explicit_mode_leaves_what_is_not_loaded_alone(tmp_path: Path) -> None:
    models = {"m": {}, "other": {}}
    async with running_fleet(tmp_path, models, model_control_mode="explicit", load_model=("m",)) as running:
        await running.becomes({"m-1-0": State.READY})
        running.write("m", {"slots": 2})
        assert await running.repository.reload() == {"m": "loaded"}


async def test_a_reload_in_explicit_mode_does_not_bring_back_what_was_unloaded(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, {"m": {}}, model_control_mode="explicit") as running:
        running.compose("whole", of="m")
        await running.fleet.load("whole")
        await running.fleet.unload("m")
        assert await running.repository.reload() == {"whole": "unchanged"}
        assert running.state("whole") is State.STOPPED


async def test_in_poll_mode_the_repository_is_followed_and_what_failed_waits_for_a_change(tmp_path: Path) -> None:
    models = {"m": {}, "bad": {"config": "max_batch_size: -1"}}
    async with running_fleet(tmp_path, models, model_control_mode="poll", repository_poll_secs=0.05) as running:
        await running.becomes({"m-1-0": State.READY})
        running.write("new")
        await running.becomes({"new-1-0": State.READY}, "new")
        assert running.state("bad") is State.FAILED
        running.write("bad")
        await running.becomes({"bad-1-0.1": State.READY}, "bad")
        shutil.rmtree(running.folder / "new")

        async def gone() -> bool:
            return "new" not in {status.config.name for status in running.fleet.statuses()}

        await eventually_async(gone, what="the end of a model that is gone")
        assert running.endpoints() == {"m-1-0": State.READY}


async def test_in_poll_mode_an_ensemble_comes_back_with_its_parts_folder(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, {"m": {}}, model_control_mode="poll", repository_poll_secs=0.05) as running:
        running.compose("whole", of="m")

        async def becomes(state: State) -> None:
            async def holds() -> bool:
                return any(one.config.name == "whole" and one.state is state for one in running.fleet.statuses())

            await eventually_async(holds, what=f"an ensemble that is {state}")

        await becomes(State.READY)
        (running.folder / "m").rename(tmp_path / "away")
        await becomes(State.STOPPED)
        (tmp_path / "away").rename(running.folder / "m")
        await becomes(State.READY)


async def test_ensembles_that_name_each_other_are_refused_and_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, {}) as running:
        running.compose("a", of="b")
        running.compose("b", of="a")
        outcomes = await running.repository.reload()
        assert set(outcomes) == {"a", "b"}
        assert any("circular dependency between ensembles" in outcome for outcome in outcomes.values())
        assert [running.state(name) for name in ("a", "b")] == [State.FAILED] * 2
