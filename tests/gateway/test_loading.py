"""From configurations to endpoints and their states."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.config import InstanceGroup, ModelConfig
from backends.engine.process import EngineProcess
from backends.engine.watch import Patience, RemoteEndpoint
from backends.errors import InvalidRequest
from backends.model import State
from backends.repository import BrokenModel
from gateway.loading import LoadedModel, choose, prepare
from gateway.settings import Settings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text('backend: "echo"')
    (tmp_path / "broken").mkdir()
    return tmp_path


def chosen(repository: Path, **settings: Any) -> list[str]:
    return [model.name for model in choose(Settings(model_repository=(repository,), **settings))]


def test_all_models_are_loaded_by_default(repository: Path) -> None:
    assert chosen(repository) == ["a", "b", "broken"]


def test_explicit_loads_those_named(repository: Path) -> None:
    assert chosen(repository, model_control_mode="explicit") == []
    assert chosen(repository, model_control_mode="explicit", load_model=("b",)) == ["b"]
    assert chosen(repository, model_control_mode="explicit", load_model=("*",)) == ["a", "b", "broken"]


def test_a_named_model_that_is_not_there_is_a_broken_one(repository: Path) -> None:
    settings = Settings(model_repository=(repository,), model_control_mode="explicit", load_model=("a", "zz"))
    missing = choose(settings)[-1]
    assert isinstance(missing, BrokenModel)
    assert missing.name == "zz"
    assert str(repository) in missing.reason


def test_settings_that_make_no_sense_are_refused(repository: Path) -> None:
    with pytest.raises(InvalidRequest, match="--load-model needs --model-control-mode explicit"):
        chosen(repository, load_model=("a",))


async def loaded(*models: ModelConfig | BrokenModel) -> list[LoadedModel]:
    return await prepare(models, Settings(), "/tmp", asyncio.Event())


async def test_what_cannot_be_loaded_says_why_and_spoils_no_other() -> None:
    models = await loaded(
        BrokenModel("broken", "no configuration"),
        ModelConfig("unknown", "abacus"),
        ModelConfig("wrong", "echo", arguments={"nonsense": 1}),
        ModelConfig("good", "echo"),
    )
    statuses = {model.config.name: model.status() for model in models}
    assert [status.state for status in statuses.values()] == [State.FAILED] * 3 + [State.STARTING]
    assert statuses["broken"].reason == "no configuration"
    assert "'abacus'" in statuses["unknown"].reason
    assert "echo" in statuses["unknown"].reason
    assert "'nonsense'" in statuses["wrong"].reason
    assert [model.settled for model in models] == [True, True, True, False]


async def test_each_instance_is_an_endpoint_with_an_id_of_its_own() -> None:
    (model,) = await loaded(ModelConfig("m", "echo", instance_group=(InstanceGroup(2),), version=3))
    assert [endpoint.id for endpoint in model.endpoints] == ["m-3-0", "m-3-1"]
    assert all(isinstance(endpoint, EngineProcess) for endpoint in model.endpoints)


def remote(state: State, reason: str = "", context_length: int | None = None) -> RemoteEndpoint:
    endpoint = RemoteEndpoint("r", "http://127.0.0.1:1", "r", asyncio.Event(), Patience())
    endpoint.status.enter(state, reason)
    endpoint.status.describe(context_length)
    return endpoint


def test_a_model_is_as_well_as_its_best_endpoint() -> None:
    endpoints = [remote(State.FAILED, "gone"), remote(State.READY, "", 8), remote(State.UNHEALTHY, "slow", 4)]
    model = LoadedModel(ModelConfig("m", "openai"), endpoints)
    status = model.status()
    assert (status.state, status.reason, status.context_length) == (State.READY, "", 4)
    assert [endpoint.state for endpoint in status.endpoints] == [State.FAILED, State.READY, State.UNHEALTHY]
    assert model.settled


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((State.FAILED, State.STARTING), State.STARTING),
        ((State.UNHEALTHY, State.FAILED), State.UNHEALTHY),
        ((State.FAILED, State.FAILED), State.FAILED),
    ],
)
def test_a_model_without_a_ready_endpoint_tells_the_most_hopeful_state(
    states: tuple[State, ...], expected: State
) -> None:
    model = LoadedModel(ModelConfig("m", "openai"), [remote(state, state.value) for state in states])
    assert (model.status().state, model.status().reason) == (expected, expected.value)
