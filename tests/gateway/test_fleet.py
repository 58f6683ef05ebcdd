"""Models that come, change and go while they serve: real echo engines, and the burden that the test says they have."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.engine.probe import get
from backends.errors import InvalidRequest, ModelNotFound, ModelNotReady
from backends.model import State
from tests.engines import echo_engine
from tests.gateway.running_fleet import Running, running_fleet
from tests.waiting import eventually_async

pytestmark = pytest.mark.slow  # engines are started and stopped


async def test_a_changed_model_serves_anew_and_what_it_was_finishes_first(running: Running) -> None:
    (old,) = running.addresses()
    running.busy = {old: 1}
    running.write("m", {"slots": 3})
    await running.fleet.load("m")
    assert running.endpoints() == {"m-1-0.1": State.READY, "m-1-0": State.DRAINING}
    assert (await get(old, "/health", 5, 100))[0] == 200
    running.busy = {}
    await running.becomes({"m-1-0.1": State.READY})


async def test_the_old_configuration_serves_until_the_new_one_is_ready(running: Running) -> None:
    running.write("m", {"start_delay_ms": 1000})
    loading = asyncio.create_task(running.fleet.load("m"))
    await running.becomes({"m-1-0": State.READY})
    assert not loading.done()
    await loading
    assert running.endpoints()["m-1-0.1"] is State.READY


@pytest.mark.parametrize(
    ("arguments", "config", "words"),
    [
        ({"nonsense": 1}, "", "'nonsense'"),
        ({}, "instance_group [{", "failed to read text proto"),
        ({}, 'parameters { key: "routing_policy" value { string_value: "rain" } }', "'routing_policy'"),
        ({}, 'parameters { key: "aliases" value { string_value: "other" } }', "'other' is the name of another model"),
    ],
)
async def test_a_bad_configuration_is_refused_whole(
    running: Running, arguments: dict[str, Any], config: str, words: str
) -> None:
    running.write("other")
    await running.fleet.load("other")
    before = running.served()
    running.write("m", arguments, config)
    with pytest.raises(InvalidRequest, match=words):
        await running.fleet.load("m")
    assert running.served() == before


async def test_an_engine_that_does_not_start_is_refused_and_the_old_one_goes_on(running: Running) -> None:
    running.write("m", {"start_error": "no weights here"}, "instance_group [{ count: 2 }]")
    with pytest.raises(ModelNotReady, match=r"The engine m-1-\d\.1 does not start: exited with status 1"):
        await running.fleet.load("m")
    assert running.endpoints() == {"m-1-0": State.READY}
    assert len(running.fleet.tasks()) == 1


async def test_endpoints_that_did_not_change_are_not_restarted(running: Running) -> None:
    running.write("m", {}, "instance_group [{ count: 2 }]")
    await running.fleet.load("m")
    assert running.endpoints() == {"m-1-0": State.READY, "m-1-1.1": State.READY}
    running.write("m", {}, "instance_group [{ count: 1 }]")
    await running.fleet.load("m")
    await running.becomes({"m-1-0": State.READY})


async def test_a_new_model_that_fails_is_listed_with_its_reason(running: Running) -> None:
    running.write("new", {"start_error": "no weights here"})
    with pytest.raises(ModelNotReady, match="no weights here"):
        await running.fleet.load("new")
    assert running.state("new") is State.FAILED
    running.write("new")
    await running.fleet.load("new")
    assert running.state("new") is State.READY


async def test_a_model_that_is_not_there_cannot_be_controlled(running: Running) -> None:
    for control in (running.fleet.load, running.fleet.unload, running.fleet.drain):
        with pytest.raises(ModelNotFound, match="'zz'"):
            await control("zz")


async def test_unloading_takes_a_model_away_at_once_and_ends_it_when_it_is_idle(running: Running) -> None:
    (address,) = running.addresses()
    running.busy = {address: 1}
    unloading = asyncio.create_task(running.fleet.unload("m"))

    async def gone() -> bool:
        return running.fleet.statuses() == ()

    await eventually_async(gone)
    assert (await get(address, "/health", 5, 100))[0] == 200
    running.busy = {}
    await unloading
    assert running.fleet.tasks() == []
    await running.fleet.load("m")
    assert running.endpoints() == {"m-1-0": State.READY}


async def test_a_drained_model_stays_listed_and_can_be_loaded_again(running: Running) -> None:
    (address,) = running.addresses()
    running.busy = {address: 1}
    draining = asyncio.create_task(running.fleet.drain("m"))
    await running.becomes({"m-1-0": State.DRAINING})
    running.busy = {}
    await draining
    assert running.state() is State.STOPPED
    await running.fleet.load("m")
    assert running.endpoints() == {"m-1-0.1": State.READY}


async def test_a_file_of_endpoints_is_followed(running: Running) -> None:
    file = running.folder / "remote" / "endpoints"
    parameter = 'parameters { key: "endpoints_file" value { string_value: "endpoints" } }'
    with echo_engine(tcp=True) as first, echo_engine(tcp=True) as second:
        names = [f"remote-1-{engine.address.partition('://')[2]}" for engine in (first, second)]
        running.write("remote", {}, parameter)
        file.write_text(f"{first.address}\n")
        await running.fleet.load("remote")
        assert running.endpoints("remote") == {names[0]: State.READY}
        running.busy = {first.address: 1}
        file.write_text(f"{second.address} weight=3\n")
        await running.becomes({names[1]: State.READY, names[0]: State.DRAINING}, "remote")
        running.busy = {}
        await running.becomes({names[1]: State.READY}, "remote")
        (status,) = (status for status in running.fleet.statuses() if status.config.name == "remote")
        assert status.endpoints[0].weight == 3.0


async def test_a_file_of_endpoints_that_is_wrong_changes_nothing(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    file = running.folder / "remote" / "endpoints"
    with echo_engine(tcp=True) as engine:
        running.write("remote", {}, 'parameters { key: "endpoints_file" value { string_value: "endpoints" } }')
        file.write_text(engine.address)
        await running.fleet.load("remote")
        before = running.endpoints("remote")
        file.write_text("nonsense\n")

        async def told() -> bool:
            return "remote: its endpoints stay as they are" in caplog.text

        await eventually_async(told)
        assert running.endpoints("remote") == before


async def test_the_time_to_drain_is_bounded(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, {"m": {}}, exit_timeout_secs=0.2) as running:
        await running.becomes({"m-1-0": State.READY})
        running.busy = {running.addresses()[0]: 1}
        await running.fleet.unload("m")
        assert running.fleet.tasks() == []


async def test_an_ensemble_is_stopped_while_its_part_is_unloaded_and_comes_back_with_it(running: Running) -> None:
    running.compose("whole", of="m")
    running.compose("around", of="whole")
    await running.fleet.load("around")
    assert [running.state(name) for name in ("whole", "around")] == [State.READY] * 2
    await running.fleet.unload("m")
    assert [running.state(name) for name in ("whole", "around")] == [State.STOPPED] * 2
    await running.fleet.unload("around")
    await running.fleet.load("m")
    assert running.state("whole") is State.READY
    assert "around" not in running.fleet.models


async def test_parts_that_were_loaded_for_one_ensemble_go_with_it_and_theirs_with_them(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, {"m": {}, "n": {}}, model_control_mode="explicit") as running:
        running.compose("whole", of="m")
        running.compose("around", of="whole")
        running.compose("other", of="n")
        for name in ("around", "n", "other"):
            await running.fleet.load(name)
        await running.fleet.unload("around", with_parts=True)
        assert sorted(running.fleet.models) == ["n", "other"]
        await running.fleet.unload("other", with_parts=True)
        assert list(running.fleet.models) == ["n"]


async def test_a_part_that_an_ensemble_still_needs_stays(running: Running) -> None:
    running.compose("whole", of="m")
    running.compose("around", of="whole")
    running.compose("beside", of="whole")
    await running.fleet.load("around")
    await running.fleet.load("beside")
    await running.fleet.unload("around", with_parts=True)
    assert [running.state(name) for name in ("whole", "beside")] == [State.READY] * 2
