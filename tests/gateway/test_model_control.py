"""Triton's repository extension over a fleet: what the index says, and in which words loading fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.errors import Code, InferenceError
from gateway.fleet import Fleet
from gateway.lives import Burden
from gateway.model_control import ModelControl
from gateway.overrides import Override
from gateway.settings import Settings
from tests.gateway.running_fleet import publish
from tests.servers import echo_repository

pytestmark = pytest.mark.slow  # engines are started and stopped

TENSOR = "data_type: TYPE_FP32 dims: [ 1 ]"
STEP = 'model_name: "zz" input_map { key: "I" value: "A" } output_map { key: "O" value: "Z" }'
UNKNOWN = (
    f'platform: "ensemble" ensemble_scheduling {{ step [ {{ {STEP} }} ] }} '
    f'input [ {{ name: "A" {TENSOR} }} ] output [ {{ name: "Z" {TENSOR} }} ]'
)


class Desk:
    """Models `m` and `n`, and some that cannot be loaded, in two repositories in explicit mode; `m` is loaded."""

    def __init__(self, folder: Path) -> None:
        first = echo_repository(folder / "first", {"m": {}, "n": {}})
        second = folder / "second"
        for name, config in (
            ("strange", 'backend: "abacus"'),
            ("empty", 'backend: "echo"'),
            ("garbled", "max_batch_size: banana"),
            ("apart", UNKNOWN),
        ):
            (second / name / "1").mkdir(parents=True)
            (second / name / "config.pbtxt").write_text(config)
        (second / "empty" / "1").rmdir()
        (first / "twice").mkdir()
        (second / "twice").mkdir()
        settings = Settings(
            model_repository=(first, second),
            model_control_mode="explicit",
            load_model=("m",),
            health_interval=0.05,
            exit_timeout_secs=0.2,
        )
        self.changed = asyncio.Event()
        self.fleet = Fleet(settings, str(folder / "run"), self.changed, self.burden)
        self.control = ModelControl(settings, self.fleet)

    async def burden(self) -> Burden:
        return Burden(self.fleet.snapshot_number, {})

    async def index(self) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = {}
        for entry in await self.control.index():
            found.setdefault(entry.pop("name"), []).append(entry)
        return found

    async def refusal(self, name: str, override: Override | None = None) -> tuple[str, Code]:
        with pytest.raises(InferenceError) as raised:
            await self.control.load(name, override)
        return raised.value.message, raised.value.status


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "run").mkdir()
    desk = Desk(tmp_path)
    await desk.fleet.open()
    publishing = asyncio.create_task(publish(desk.fleet, desk.changed))
    await desk.control.load("m", None)
    yield desk
    tasks = [*desk.fleet.tasks(), *desk.control.tasks(), publishing]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    desk.fleet.close()


async def test_the_index_has_every_folder_with_what_became_of_it(desk: Desk) -> None:
    assert await desk.index() == {
        "apart": [{}],
        "empty": [{}],
        "garbled": [{}],
        "m": [{"version": "1", "state": "READY"}],
        "n": [{}],
        "strange": [{}],
        "twice": [{"state": "UNAVAILABLE", "reason": "model appears in two or more repositories"}],
    }


async def test_what_was_unloaded_stays_in_the_index_and_can_be_loaded_again(desk: Desk) -> None:
    await desk.control.load("n", None)
    await desk.control.unload("n", with_parts=False)
    assert (await desk.index())["n"] == [{"version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    await desk.control.unload("n", with_parts=False)  # one that is not there is none already
    await desk.control.load("n", None)
    assert (await desk.index())["n"] == [{"version": "1", "state": "READY"}]


async def test_what_cannot_be_read_is_not_told_apart_from_what_is_not_there(desk: Desk) -> None:
    for name in ("nope", "garbled", "twice"):
        assert await desk.refusal(name) == (
            f"failed to load '{name}', failed to poll from model repository",
            Code.INTERNAL,
        )
    assert (await desk.refusal("m", Override("{x")))[1] is Code.INTERNAL
    assert (await desk.index())["m"] == [{"version": "1", "state": "READY"}]


async def test_a_version_that_does_not_load_says_why_and_is_listed_with_it(desk: Desk) -> None:
    why = (
        "Invalid argument: unable to find backend library for backend 'abacus', "
        "try specifying runtime on the model configuration."
    )
    assert await desk.refusal("strange") == (
        f"load failed for model 'strange': version 1 is at UNAVAILABLE state: {why};\n",
        Code.INVALID_ARG,
    )
    assert (await desk.index())["strange"] == [{"version": "1", "state": "UNAVAILABLE", "reason": why}]


async def test_a_model_without_a_version_says_so_and_leaves_the_index(desk: Desk) -> None:
    assert await desk.refusal("empty") == (
        (
            "load failed for model 'empty': at least one version must be available under the version policy of model "
            "'empty'\n"
        ),
        Code.INVALID_ARG,
    )
    assert "empty" not in await desk.index()


async def test_an_ensemble_that_lacks_a_model_names_it_and_has_no_version(desk: Desk) -> None:
    assert await desk.refusal("apart") == (
        "load failed for model 'apart': ensemble apart contains models that are not available or ambiguous: zz\n",
        Code.INVALID_ARG,
    )
    assert (await desk.index())["apart"] == [{}]


async def test_a_configuration_that_does_not_start_leaves_the_old_one_serving(desk: Desk) -> None:
    message, code = await desk.refusal("m", Override('{"backend": "abacus"}'))
    assert code is Code.INVALID_ARG
    assert "unable to find backend library for backend 'abacus'" in message
    assert (await desk.index())["m"] == [{"version": "1", "state": "READY"}]
