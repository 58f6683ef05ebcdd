"""From configurations to endpoints and their states."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from backends.config import EnsembleScheduling, InstanceGroup, ModelConfig
from backends.engine.process import EngineProcess
from backends.engine.watch import FailedForGoodError, Patience, RemoteEndpoint
from backends.errors import InvalidRequest, ModelNotFound
from backends.model import State
from backends.repository import BrokenModel
from gateway.choice import choose, find
from gateway.loading import LoadedModel, Place, prepare, replace
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
    return await prepare(models, Place(Settings(), "/tmp", asyncio.Event()))


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
    assert "'nonsense'" in statuses["wrong"].reason
    assert [model.settled for model in models] == [True, True, True, False]


async def test_each_instance_is_an_endpoint_with_an_id_of_its_own() -> None:
    (model,) = await loaded(ModelConfig("m", "echo", instance_group=(InstanceGroup(2),), version=3))
    assert [endpoint.id for endpoint in model.endpoints] == ["m-3-0", "m-3-1"]
    assert all(isinstance(endpoint, EngineProcess) for endpoint in model.endpoints)


async def test_routing_and_names_are_judged_when_a_model_is_loaded() -> None:
    models = await loaded(
        ModelConfig("bad-routing", "echo", parameters={"routing_policy": "rain"}),
        ModelConfig("bad-cause", "echo", parameters={"fallback_on": "rain"}),
        ModelConfig("first", "echo", parameters={"aliases": "default"}),
        ModelConfig("second", "echo", parameters={"aliases": "default"}),
        ModelConfig("third", "echo", parameters={"aliases": "first"}),
    )
    reasons = {model.config.name: model.reason for model in models}
    assert "'routing_policy'" in reasons["bad-routing"]
    assert "'fallback_on'" in reasons["bad-cause"]
    assert reasons["first"] == ""
    assert "'default' is one of the model 'first' already" in reasons["second"]
    assert "'first' is the name of another model" in reasons["third"]


async def test_processes_and_urls_may_be_mixed() -> None:
    parameters = {"endpoints": "http://a:8000 weight=9, http://b:8000/base"}
    (model,) = await loaded(ModelConfig("m", "echo", instance_group=(InstanceGroup(1),), parameters=parameters))
    endpoints = model.status().endpoints
    assert [endpoint.id for endpoint in endpoints] == ["m-1-0", "m-1-a:8000", "m-1-b:8000/base"]
    assert [endpoint.weight for endpoint in endpoints] == [1.0, 9.0, 1.0]
    assert [endpoint.address for endpoint in endpoints] == ["unix:/tmp/m-1.sock", "http://a:8000", "http://b:8000/base"]


async def test_what_stays_the_same_is_kept_and_the_rest_stands_beside_it(tmp_path: Path) -> None:
    place = Place(Settings(), str(tmp_path), asyncio.Event())
    groups = (InstanceGroup(2),)
    urls = {"endpoints": "http://a:1, http://b:1"}
    (before,) = await prepare([ModelConfig("m", "echo", instance_group=groups, parameters=urls)], place)
    for endpoint in before.endpoints:
        endpoint.status.enter(State.READY)
    wider = ModelConfig(
        "m", "echo", instance_group=(InstanceGroup(3),), parameters={"endpoints": "http://b:1, http://c:1"}
    )
    after = await replace(wider, before, place, place.generation())
    assert [endpoint.id for endpoint in after.endpoints] == ["m-1-0", "m-1-1", "m-1-2.1", "m-1-b:1", "m-1-c:1"]
    assert [endpoint in before.endpoints for endpoint in after.endpoints] == [True, True, False, True, False]
    changed = ModelConfig("m", "echo", instance_group=(InstanceGroup(3),), arguments={"slots": 2})
    later = await replace(changed, after, place, place.generation())
    assert [endpoint.id for endpoint in later.endpoints] == ["m-1-0.2", "m-1-1.2", "m-1-2.2"]
    assert later.created == before.created
    again = await replace(changed, later, place, place.generation())
    assert again.endpoints == later.endpoints


async def test_what_has_failed_or_drains_is_not_kept(tmp_path: Path) -> None:
    place = Place(Settings(), str(tmp_path), asyncio.Event())
    config = ModelConfig("m", "echo", instance_group=(InstanceGroup(2),))
    (before,) = await prepare([config], place)
    before.endpoints[0].status.enter(State.FAILED, "gone")
    before.endpoints[1].drain()
    after = await replace(config, before, place, place.generation())
    assert [endpoint.id for endpoint in after.endpoints] == ["m-1-0.1", "m-1-1.1"]


def test_one_model_is_found_with_its_versions_or_refused(repository: Path) -> None:
    settings = Settings(model_repository=(repository,))
    assert [config.name for config in find(settings, "a")] == ["a"]
    with pytest.raises(ModelNotFound, match="'zz'"):
        find(settings, "zz")
    with pytest.raises(InvalidRequest, match="'broken'"):
        find(settings, "broken")


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


def worker(folder: Path, text: str = "", **settings: Any) -> ModelConfig:
    """The configuration of a `model.py` in a repository."""
    (folder / "w" / "1").mkdir(parents=True, exist_ok=True)
    file = folder / "w" / "config.pbtxt"
    if not file.exists() or file.read_text() != f'backend: "python" {text}':
        file.write_text(f'backend: "python" {text}')
        (folder / "w" / "1" / "model.py").touch()
    (config,) = find(Settings(model_repository=(folder,), **settings), "w")
    return config


async def test_a_worker_is_told_the_gateways_options(tmp_path: Path) -> None:
    settings = Settings(cache_config="local,size=1024", disable_auto_complete_config=True, rate_limit="execution_count")
    (model,) = await prepare([worker(tmp_path)], Place(settings, "/run/t", asyncio.Event()))
    (process,) = model.endpoints
    assert isinstance(process, EngineProcess)
    options = json.loads(process.command.env["TRITIUM_WORKER_OPTIONS"])
    assert (options["cache_bytes"], options["completes"]) == (1024, False)
    assert options["resources_path"] == "/run/t/resources"


async def test_a_worker_is_kept_while_neither_its_files_nor_its_configuration_change(tmp_path: Path) -> None:
    place = Place(Settings(), str(tmp_path), asyncio.Event())
    before = await replace(worker(tmp_path), None, place)
    same = await replace(worker(tmp_path), before, place, 1)
    assert same.endpoints == before.endpoints
    os.utime(tmp_path / "w" / "1" / "model.py", ns=(1, 1))
    touched = await replace(worker(tmp_path), before, place, 2)
    assert touched.endpoints[0].address != before.endpoints[0].address
    (tmp_path / "w" / "labels.txt").touch()
    labelled = await replace(worker(tmp_path), touched, place, 3)
    assert labelled.endpoints[0].address != touched.endpoints[0].address
    changed = await replace(worker(tmp_path, "max_batch_size: 4"), touched, place, 4)
    assert changed.endpoints[0].address != touched.endpoints[0].address


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]",
            "Invalid argument: instance group w_0 of model w has kind KIND_CPU but specifies one or more GPUs",
        ),
        (
            'output [ { name: "O" data_type: TYPE_FP32 dims: [ 1 ] label_filename: "gone.txt" } ]',
            "Internal: failed to open text file for read {folder}/w/gone.txt: No such file or directory",
        ),
        (
            'output [ { name: "O" data_type: TYPE_FP32 dims: [ 1 ] label_filename: "/etc/hostname" } ]',
            "Internal: failed to open text file for read {folder}/w/etc/hostname: No such file or directory",
        ),
    ],
)
async def test_what_no_worker_could_load_is_not_started(tmp_path: Path, text: str, cause: str) -> None:
    (model,) = await loaded(worker(tmp_path, text))
    assert (model.endpoints, model.cause) == ((), cause.format(folder=tmp_path))
    assert model.is_known


async def test_a_worker_is_served_under_the_configuration_that_it_has_completed(tmp_path: Path) -> None:
    (model,) = await loaded(worker(tmp_path))
    (process,) = model.endpoints
    fields = json.loads(model.config.document)
    fields |= {"max_batch_size": 4, "dynamic_batching": {}}
    process.status.document = json.dumps(fields)
    served = model.status().config
    assert (served.max_batch_size, model.config.max_batch_size) == (4, 0)
    assert served.dynamic_batching is not None
    assert served.dynamic_batching.preferred_batch_size == (4,)
    assert model.status().config is served


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            '{"name": "w", "backend": "python", "input": [{"name": "I", "dims": ["1"]}]}',
            "must specify 'data_type' for w",
        ),
        ("{x", "The completed configuration of model 'w' is wrong"),
    ],
)
async def test_a_completed_configuration_is_judged(tmp_path: Path, document: str, words: str) -> None:
    (model,) = await loaded(worker(tmp_path))
    (process,) = model.endpoints
    assert isinstance(process, EngineProcess)
    with pytest.raises(FailedForGoodError, match=f"^Invalid argument: .*{words}"):
        process._judge(document)
    process._judge(model.config.document)


async def test_an_ensemble_runs_nothing_of_its_own() -> None:
    config = ModelConfig("e", "ensemble", platform="ensemble", ensemble_scheduling=EnsembleScheduling())
    (model,) = await loaded(config)
    assert (model.endpoints, model.reason) == ((), "")
