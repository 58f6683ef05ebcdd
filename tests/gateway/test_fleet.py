"""Models that come, change and go while they serve: real echo engines, and the burden that the test says they have."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.engine.probe import get
from backends.errors import InvalidRequest, ModelNotFound, ModelNotReady
from backends.model import Endpoint, State
from gateway.fleet import Fleet
from gateway.lives import Burden
from gateway.settings import Settings
from tests.engines import echo_engine
from tests.servers import echo_repository
from tests.waiting import eventually_async

pytestmark = pytest.mark.slow  # engines are started and stopped


class Running:
    """A fleet over a repository, published as the supervisor does it."""

    def __init__(self, folder: Path, runtime: Path, **settings: Any) -> None:
        self.folder = folder
        self.busy: dict[str, int] = {}
        self.changed = asyncio.Event()
        given = Settings(model_repository=(folder,), health_interval=0.05, **settings)
        self.fleet = Fleet(given, str(runtime), self.changed, self._burden)

    async def _burden(self) -> Burden:
        return Burden(self.fleet.snapshot_number, self.busy)

    async def publish(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            self.fleet.snapshot_number += 1
            self.fleet.notice()

    def write(self, name: str, arguments: dict[str, Any] | None = None, config: str = "") -> None:
        (self.folder / name / "1").mkdir(parents=True, exist_ok=True)
        (self.folder / name / "config.pbtxt").write_text(f'backend: "echo"\n{config}\n')
        (self.folder / name / "1" / "model.json").write_text(json.dumps(arguments or {}))

    def endpoints(self, name: str = "m") -> dict[str, State]:
        return {
            endpoint.id: endpoint.state
            for status in self.fleet.statuses()
            if status.config.name == name
            for endpoint in status.endpoints
        }

    def served(self) -> list[tuple[ModelConfig, tuple[Endpoint, ...]]]:
        return [(status.config, status.endpoints) for status in self.fleet.statuses()]

    def addresses(self, name: str = "m") -> list[str]:
        (status,) = (status for status in self.fleet.statuses() if status.config.name == name)
        return [endpoint.address for endpoint in status.endpoints]

    def state(self, name: str = "m") -> State:
        (status,) = (status for status in self.fleet.statuses() if status.config.name == name)
        return status.state

    async def becomes(self, expected: dict[str, State], name: str = "m") -> None:
        async def holds() -> bool:
            return self.endpoints(name) == expected

        await eventually_async(holds, what=f"{expected} of {name}")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """One model `m`, ready."""
    (tmp_path / "run").mkdir()
    running = Running(echo_repository(tmp_path / "models", {"m": {}}), tmp_path / "run")
    await running.fleet.open()
    publishing = [asyncio.create_task(running.publish()), asyncio.create_task(running.fleet.watch_files())]
    try:
        await running.becomes({"m-1-0": State.READY})
        yield running
    finally:
        tasks = [*running.fleet.tasks(), *publishing]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        running.fleet.close()
        assert list((tmp_path / "run").iterdir()) == []


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


async def test_a_reload_leaves_a_drained_model_to_whoever_drained_it(running: Running) -> None:
    await running.fleet.drain("m")
    running.write("m", {"slots": 2})
    assert await running.fleet.reload() == {"m": "drained"}
    assert running.state() is State.STOPPED


async def test_the_time_to_drain_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    running = Running(echo_repository(tmp_path / "models", {"m": {}}), tmp_path / "run", exit_timeout_secs=0.2)
    await running.fleet.open()
    publishing = asyncio.create_task(running.publish())
    try:
        await running.becomes({"m-1-0": State.READY})
        running.busy = {running.addresses()[0]: 1}
        await running.fleet.unload("m")
        assert running.fleet.tasks() == []
    finally:
        publishing.cancel()


async def test_a_reload_follows_the_repository(running: Running) -> None:
    running.write("kept")
    running.write("gone")
    assert await running.fleet.reload() == {"gone": "loaded", "kept": "loaded", "m": "unchanged"}
    running.write("m", {"slots": 2})
    running.write("kept", {"nonsense": 1})
    (running.folder / "gone" / "config.pbtxt").unlink()
    (running.folder / "gone" / "1" / "model.json").unlink()
    (running.folder / "gone" / "1").rmdir()
    (running.folder / "gone").rmdir()
    outcome = await running.fleet.reload()
    assert (outcome["gone"], outcome["m"]) == ("unloaded", "loaded")
    assert "'nonsense'" in outcome["kept"]
    assert running.state("kept") is State.READY


async def test_a_reload_in_explicit_mode_leaves_what_is_not_loaded_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    models = echo_repository(tmp_path / "models", {"m": {}, "other": {}})
    running = Running(models, tmp_path / "run", model_control_mode="explicit", load_model=("m",))
    await running.fleet.open()
    publishing = asyncio.create_task(running.publish())
    try:
        await running.becomes({"m-1-0": State.READY})
        running.write("m", {"slots": 2})
        assert await running.fleet.reload() == {"m": "loaded"}
    finally:
        await running.fleet.unload("m")
        publishing.cancel()


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


async def test_in_poll_mode_the_repository_is_followed_and_what_failed_waits_for_a_change(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = echo_repository(tmp_path / "models", {"m": {}, "bad": {"config": "max_batch_size: -1"}})
    running = Running(folder, tmp_path / "run", model_control_mode="poll", repository_poll_secs=0.05)
    await running.fleet.open()
    tasks = [asyncio.create_task(running.publish()), asyncio.create_task(running.fleet.poll())]
    try:
        await running.becomes({"m-1-0": State.READY})
        running.write("new")
        await running.becomes({"new-1-0": State.READY}, "new")
        assert running.state("bad") is State.FAILED
        running.write("bad")
        await running.becomes({"bad-1-0.1": State.READY}, "bad")
        shutil.rmtree(folder / "new")

        async def gone() -> bool:
            return "new" not in {status.config.name for status in running.fleet.statuses()}

        await eventually_async(gone, what="the end of a model that is gone")
        assert running.endpoints() == {"m-1-0": State.READY}
    finally:
        for task in (*tasks, *running.fleet.tasks()):
            task.cancel()
        await asyncio.wait([*tasks, *running.fleet.tasks()])


async def test_ensembles_that_name_each_other_are_refused_and_do_not_wait_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    running = Running(echo_repository(tmp_path / "models", {}), tmp_path / "run", model_control_mode="poll")
    tensor = "data_type: TYPE_FP32 dims: [ 1 ]"
    for name, other in (("a", "b"), ("b", "a")):
        step = f'model_name: "{other}" input_map {{ key: "X" value: "X" }} output_map {{ key: "Y" value: "Y" }}'
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text(
            f'platform: "ensemble" input [ {{ name: "X" {tensor} }} ] output [ {{ name: "Y" {tensor} }} ] '
            f"ensemble_scheduling {{ step [ {{ {step} }} ] }}"
        )
    publishing = asyncio.create_task(running.publish())
    outcomes = await asyncio.wait_for(running.fleet.reload(), 10)
    publishing.cancel()
    assert set(outcomes) == {"a", "b"}
    assert any("circular dependency between ensembles" in outcome for outcome in outcomes.values())
    assert [running.state(name) for name in ("a", "b")] == [State.FAILED] * 2
