"""TensorRT-LLM: its options become flags, ports are its own, and endpoints by URL need no environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from backends import tensorrtllm
from backends.config import InstanceGroup, ModelConfig
from backends.errors import InvalidRequest, Unavailable
from backends.model import Capability, Endpoints
from tests.backends.running import NO_MODELS

REMOTE = {"endpoints": "http://127.0.0.1:1"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of TensorRT-LLM that only looks like one."""
    folder = tmp_path / "engines" / "tensorrtllm" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    (folder / "trtllm-serve").touch()
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path / "engines"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return folder


def configured(tmp_path: Path, groups: tuple[InstanceGroup, ...] = (), **arguments: Any) -> ModelConfig:
    given = {"model": "org/model", **arguments}
    return ModelConfig("m", backend="tensorrtllm", path=str(tmp_path), arguments=given, instance_group=groups)


def test_the_engine_listens_on_a_loopback_port_that_stays_the_same(installed: Path, tmp_path: Path) -> None:
    (command,) = tensorrtllm.launch(configured(tmp_path), runtime_dir="/run/t")
    port = int(command.address.rpartition(":")[2])
    assert command.address == f"http://127.0.0.1:{port}"
    assert 1024 < port < 32768
    assert command.argv[:3] == (str(installed / "trtllm-serve"), "org/model", "--host=127.0.0.1")
    assert command.argv[-1] == f"--port={port}"
    assert (command.health, command.metrics, command.env) == ("/health", "/prometheus/metrics", {})
    assert tensorrtllm.launch(configured(tmp_path), runtime_dir="/run/t") == [command]
    assert tensorrtllm.launch(configured(tmp_path), runtime_dir="/run/u") != [command]


@pytest.mark.usefixtures("installed")
def test_each_instance_has_a_port_and_a_gpu_of_its_own(tmp_path: Path) -> None:
    config = configured(tmp_path, (InstanceGroup(count=1, gpus=(0, 1)),), port=21000)
    commands = tensorrtllm.launch(config, runtime_dir="/run/t")
    assert [command.address for command in commands] == ["http://127.0.0.1:21000", "http://127.0.0.1:21001"]
    assert [command.argv[-1] for command in commands] == ["--port=21000", "--port=21001"]
    assert [command.env["CUDA_VISIBLE_DEVICES"] for command in commands] == ["0", "1"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ({"tp_size": 2}, "--tp_size=2"),
        ({"backend": "pytorch"}, "--backend=pytorch"),
        ({"trust_remote_code": True}, "--trust_remote_code"),
        ({"custom_module_dirs": ["a", "b"]}, "--custom_module_dirs=b"),
        ({"free_gpu_memory_fraction": 0.8}, "--free_gpu_memory_fraction=0.8"),
        ({"max_batch_size": 8}, "--max_batch_size=8"),
        ({}, "--max_batch_size=256"),
    ],
)
def test_an_argument_becomes_its_flag(tmp_path: Path, argument: dict[str, Any], flag: str) -> None:
    (command,) = tensorrtllm.launch(configured(tmp_path, **argument), runtime_dir="/run/t")
    assert flag in command.argv
    assert not [part for part in command.argv if part.startswith(("--model", "--no_"))]


@pytest.mark.usefixtures("installed")
def test_paths_are_relative_to_the_version_directory_and_local_weights_need_no_hub(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"max_position_embeddings": 2048}')
    (tmp_path / "options.yaml").touch()
    (command,) = tensorrtllm.launch(configured(tmp_path, model="hf", config="options.yaml"), runtime_dir="/run/t")
    assert command.argv[1] == str(tmp_path / "hf")
    assert f"--config={tmp_path / 'options.yaml'}" in command.argv
    assert command.env == {"HF_HUB_OFFLINE": "1"}
    assert command.context_length == 2048
    (command,) = tensorrtllm.launch(configured(tmp_path, model="hf", max_seq_len=512), runtime_dir="/run/t")
    assert command.context_length == 512


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_batchsize": 8}, "max_batchsize"),
        ({"host": "0.0.0.0"}, "host"),
        ({"trust_remote_code": "yes"}, "trust_remote_code"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_seq_len": "long"}, "max_seq_len"),
        ({"model": None}, "model"),
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"port": 65536}, "port"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_wrong_argument_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tensorrtllm.launch(configured(tmp_path, **arguments), runtime_dir="/run/t")


def test_without_its_environment_the_script_that_makes_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path))
    with pytest.raises(Unavailable, match=r"deploy/engines/tensorrtllm\.sh"):
        tensorrtllm.launch(configured(tmp_path), runtime_dir="/run/t")


def test_an_environment_without_the_server_is_no_environment(installed: Path, tmp_path: Path) -> None:
    (installed / "trtllm-serve").unlink()
    with pytest.raises(Unavailable, match="trtllm-serve"):
        tensorrtllm.launch(configured(tmp_path), runtime_dir="/run/t")


def test_endpoints_by_url_start_nothing_and_need_no_weights(tmp_path: Path) -> None:
    arguments = {"max_seq_len": 4096, "max_batch_size": 8}
    config = ModelConfig("m", backend="tensorrtllm", path=str(tmp_path), arguments=arguments, parameters=REMOTE)
    assert tensorrtllm.launch(config, runtime_dir="/run/t") == []
    model = tensorrtllm.connect(config, Endpoints(), NO_MODELS)
    assert model.capabilities == {Capability.CHAT, Capability.COMPLETIONS}
    assert model.parallelism == 8
