"""Processes of an instance group: their number, their sockets, their GPUs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from backends.config import InstanceGroup, ModelConfig
from backends.engine.instances import instances, replica_count, starts_processes
from backends.errors import InvalidRequest
from backends.kinds import find_kind
from backends.model import Endpoint, Endpoints
from tests.backends.running import NO_MODELS


def configured(*groups: InstanceGroup, **parameters: str) -> ModelConfig:
    return ModelConfig("m", "echo", instance_group=groups, parameters=parameters)


@pytest.fixture
def all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_one_process_serves_a_model_that_says_nothing() -> None:
    assert [each.socket for each in instances(configured(), "/run/t")] == ["/run/t/m-1.sock"]


def test_each_process_has_a_socket_of_its_own() -> None:
    sockets = [each.socket for each in instances(configured(InstanceGroup(2), InstanceGroup(1)), "/run/t")]
    assert sockets == ["/run/t/m-1.sock", "/run/t/m-1.1.sock", "/run/t/m-1.2.sock"]


def test_endpoints_by_url_take_the_place_of_the_process_that_is_not_asked_for() -> None:
    remote, mixed = configured(endpoints="http://a:1"), configured(InstanceGroup(1), endpoints="http://a:1")
    assert (instances(remote, "/run/t"), starts_processes(remote)) == ([], False)
    assert (len(instances(mixed, "/run/t")), starts_processes(mixed)) == (1, True)


@pytest.mark.usefixtures("all_gpus")
@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (InstanceGroup(2, gpus=(0, 1)), ["0", "0", "1", "1"]),
        (InstanceGroup(1, "KIND_GPU", (3,)), ["3"]),
        (InstanceGroup(2, "KIND_MODEL", (0, 1)), ["0,1", "0,1"]),
        (InstanceGroup(1, "KIND_CPU"), [None]),
    ],
)
def test_each_process_sees_its_own_gpus(group: InstanceGroup, expected: list[str | None]) -> None:
    assert [each.env.get("CUDA_VISIBLE_DEVICES") for each in instances(configured(group), "/run/t")] == expected


def test_gpus_are_numbered_among_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    (first, second) = instances(configured(InstanceGroup(1, gpus=(0, 1))), "/run/t")
    assert (first.env["CUDA_VISIBLE_DEVICES"], second.env["CUDA_VISIBLE_DEVICES"]) == ("4", "GPU-5")
    with pytest.raises(InvalidRequest, match=r"'m'.*GPU 2.*shows 2"):
        instances(configured(InstanceGroup(1, gpus=(2,))), "/run/t")


def test_replicas_are_those_of_the_snapshot_once_there_is_one() -> None:
    config = configured(InstanceGroup(3))
    assert replica_count(config, Endpoints()) == 3
    assert replica_count(config, Endpoints((Endpoint("a", "http://a"), Endpoint("b", "http://b")))) == 2
    assert replica_count(configured(endpoints="http://a"), Endpoints()) == 1


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments of the engines that only look like ones."""
    for name in ("vllm", "transformers"):
        python = tmp_path / "engines" / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path / "engines"))


PARALLELISM = {
    "echo": ({}, "slots"),
    "llamacpp": ({"model": "m.gguf"}, "n_parallel"),
    "transformers": ({"model": "org/m"}, "max_inflight_requests"),
    "vllm": ({"model": "org/m"}, "max_num_seqs"),
}


@pytest.mark.usefixtures("installed", "all_gpus")
@pytest.mark.parametrize("backend", PARALLELISM)
def test_every_engine_kind_starts_as_many_as_asked(backend: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    arguments, limit = PARALLELISM[backend]
    groups = (InstanceGroup(1, gpus=(0, 1, 2)),)
    config = ModelConfig("m", backend, path=str(tmp_path), instance_group=groups, arguments={**arguments, limit: 5})
    commands = find_kind(backend).launch(config, runtime_dir="/run/t")
    assert len({command.address for command in commands}) == 3
    for number, command in enumerate(commands):
        assert command.env["CUDA_VISIBLE_DEVICES"] == str(number)
        assert command.address.removeprefix("unix:") in json.dumps(command.argv)
    assert find_kind(backend).connect(config, Endpoints(), NO_MODELS).parallelism == 15


@pytest.mark.parametrize("backend", PARALLELISM)
def test_an_engine_elsewhere_needs_neither_weights_nor_environment_here(backend: str, tmp_path: Path) -> None:
    config = ModelConfig("m", backend, path=str(tmp_path), parameters={"endpoints": "http://a:1"})
    assert list(find_kind(backend).launch(config, runtime_dir="/run/t")) == []
    assert find_kind(backend).connect(config, Endpoints(), NO_MODELS).parallelism
