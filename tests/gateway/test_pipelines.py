"""Pipelines among the models: read from their file, as ready as their generator, changed while they answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.process import EngineProcess
from backends.engine.watch import Patience
from backends.errors import InvalidRequest, Unavailable
from backends.model import State
from ensembles.kinds import find_kind
from gateway.choice import choose, is_composed, needs, parts
from gateway.composition import settled, status
from gateway.loading import LoadedModel, Place, replace
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import ModelStatus, Snapshot
from tests.ensembles.house import RECIPE, FakeLibrary, body_of, question, talker

READY, STARTING, FAILED, RESTARTING = State.READY, State.STARTING, State.FAILED, State.RESTARTING


def config(**recipe: Any) -> ModelConfig:
    return ModelConfig("handbook", "rag", arguments={**RECIPE, **recipe})


def generator(state: State, reason: str = "", backend: str = "echo", version: int = 1) -> LoadedModel:
    engine = EngineProcess(f"talker-{version}-0", Command((), "unix:/s"), "talker", asyncio.Event(), Patience())
    engine.status.enter(state, reason)
    engine.status.context_length = 2048
    return LoadedModel(ModelConfig("talker", backend, version=version), (engine,))


@pytest.mark.parametrize(
    ("states", "expected", "is_settled"),
    [
        ((READY,), READY, True),
        ((STARTING,), STARTING, False),
        ((FAILED,), FAILED, True),
        ((FAILED, READY), READY, True),
        ((FAILED, STARTING), STARTING, False),
        ((), FAILED, True),
    ],
)
def test_a_pipeline_is_as_ready_as_its_generator_whatever_its_other_models_are(
    states: tuple[State, ...], expected: State, is_settled: bool
) -> None:
    whole = LoadedModel(config())
    versions = [generator(state, version=number) for number, state in enumerate(states, 1)]
    models = {"talker": versions, "handbook": [whole]} if versions else {"handbook": [whole]}
    assert status(whole, models).state is expected
    assert settled(whole, models) is is_settled


def test_it_has_its_generators_context_and_tells_what_that_failed_for() -> None:
    whole = LoadedModel(config())
    assert status(whole, {"talker": [generator(READY)], "handbook": [whole]}).context_length == 2048
    broken = generator(READY)
    broken.endpoints[0].status.enter(RESTARTING, "was killed")
    found = status(whole, {"talker": [broken], "handbook": [whole]})
    assert (found.state, "was killed" in found.reason) == (State.UNHEALTHY, True)


@pytest.mark.parametrize("name", ["handbook", "other"])
def test_a_pipeline_does_not_answer_by_a_pipeline(name: str) -> None:
    whole = LoadedModel(config(generator=name))
    other = LoadedModel(ModelConfig("other", "rag", arguments=RECIPE))
    found = status(whole, {"handbook": [whole], "other": [other], "talker": [generator(READY)]})
    assert (found.state, "is a pipeline itself" in found.reason) == (FAILED, True)


def test_its_models_are_its_parts_and_it_is_stopped_with_its_generator_alone() -> None:
    assert is_composed(config())
    assert parts(config()) == ("talker", "embedder", "reranker")
    assert needs(config()) == ("talker",)
    whole = LoadedModel(config())
    models = {"handbook": [whole], "talker": [generator(READY)], "embedder": [generator(READY)]}
    assert status(whole, models).state is READY
    del models["embedder"]
    assert status(whole, models).state is READY
    del models["talker"]
    assert status(whole, models).state is State.STOPPED


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("talker", "embedder", "reranker", "unused"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text('backend: "echo"')
    (tmp_path / "handbook" / "1").mkdir(parents=True)
    (tmp_path / "handbook" / "config.pbtxt").write_text('backend: "rag"')
    (tmp_path / "handbook" / "1" / "pipeline.json").write_text(json.dumps(RECIPE))
    return tmp_path


def test_what_it_names_is_loaded_with_it(repository: Path) -> None:
    settings = Settings(model_repository=(repository,), model_control_mode="explicit", load_model=("handbook",))
    chosen = {model.name: model for model in choose(settings)}
    assert chosen.keys() == {"handbook", "talker", "embedder", "reranker"}
    found = chosen["handbook"]
    assert isinstance(found, ModelConfig)
    assert found.arguments == RECIPE
    assert "text_input" in {tensor.name for tensor in found.input}  # a KServe model, as engines are


async def test_what_is_wrong_in_its_file_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    place = Place(Settings(), str(tmp_path), asyncio.Event())
    assert (await replace(config(), None, place)).endpoints == ()
    with pytest.raises(InvalidRequest, match=r"pipeline\.json has no option 'colour'"):
        await replace(config(colour="red"), None, place)


async def test_a_changed_pipeline_answers_at_once_and_the_one_before_to_its_end() -> None:
    talking = talker("red [1]")

    def connect(backend: str) -> Any:
        return find_kind(backend).connect if backend == "rag" else lambda *_: talking

    registry = Registry(connect, share=1, max_queue_size=1)
    with pytest.raises(Unavailable, match=r"tritium\[rag\]"):
        _ = registry.library
    registry.library = FakeLibrary()  # type: ignore[assignment]
    talks = ModelStatus(ModelConfig("talker", "fake"), READY, context_length=4096)

    def change(**recipe: Any) -> None:
        registry.apply(Snapshot((ModelStatus(config(reranker="", **recipe), READY), talks), settled=True))

    change()
    before = registry.openai("handbook")
    response = await before.respond(question(stream=True))
    change(abstain_below=2.0, abstention="I do not know.")
    after = registry.openai("handbook")
    assert after is not before
    assert b"I do not know." in await body_of(await after.respond(question()))
    assert b'"red [1]"' in await body_of(response)
    assert (registry.context_length("talker"), registry.context_length("nobody")) == (4096, None)
