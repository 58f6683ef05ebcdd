"""SGLang: its arguments become flags, its metrics are switched on, and its runner decides what it offers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from backends import sglang
from backends.config import ModelConfig
from backends.errors import InvalidRequest, Unavailable
from backends.model import Capability, Endpoints
from tests.backends.running import NO_MODELS


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of SGLang that only looks like one."""
    python = tmp_path / "engines" / "sglang" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path / "engines"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return python


def configured(tmp_path: Path, **arguments: Any) -> ModelConfig:
    given = {"model_path": "org/model", **arguments}
    return ModelConfig("m", backend="sglang", path=str(tmp_path), arguments=given)


def test_the_engine_listens_on_a_loopback_port_under_the_models_name(installed: Path, tmp_path: Path) -> None:
    (command,) = sglang.launch(configured(tmp_path, port=21000, context_length=2048), runtime_dir="/run/t")
    assert command.argv[:3] == (str(installed), "-m", "sglang.launch_server")
    assert command.address == "http://127.0.0.1:21000"
    for flag in ("--host=127.0.0.1", "--port=21000", "--served-model-name=m", "--model-path=org/model"):
        assert flag in command.argv
    for flag in ("--enable-metrics", "--enable-cache-report", "--max-running-requests=256"):
        assert flag in command.argv
    assert (command.metrics, command.context_length) == ("/metrics", 2048)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("argument", "flags"),
    [
        ({"mem_fraction_static": 0.8}, ["--mem-fraction-static=0.8"]),
        ({"disable_radix_cache": True}, ["--disable-radix-cache"]),
        ({"lora_strict_loading": False}, ["--no-lora-strict-loading"]),
        ({"cuda_graph_bs_decode": [1, 2]}, ["--cuda-graph-bs-decode", "1", "2"]),
        ({"model_path": None, "model": "org/other"}, ["--model-path=org/other"]),
    ],
)
def test_an_argument_becomes_its_flag(tmp_path: Path, argument: dict[str, Any], flags: list[str]) -> None:
    (command,) = sglang.launch(configured(tmp_path, **argument), runtime_dir="/run/t")
    assert [part for part in command.argv if part in flags] == flags


@pytest.mark.usefixtures("installed")
def test_local_weights_need_no_hub(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (command,) = sglang.launch(configured(tmp_path, model_path="hf"), runtime_dir="/run/t")
    assert f"--model-path={tmp_path / 'hf'}" in command.argv
    assert command.env == {"HF_HUB_OFFLINE": "1"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mem_fraction": 1}, "mem_fraction"),
        ({"api_key": "x"}, "api_key"),
        ({"disable_radix_cache": 1}, "disable_radix_cache"),
        ({"max_running_requests": 0}, "max_running_requests"),
        ({"model_path": None}, "model_path"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        sglang.launch(configured(tmp_path, **arguments), runtime_dir="/run/t")


def test_without_its_environment_the_script_that_makes_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path))
    with pytest.raises(Unavailable, match=r"deploy/engines/sglang\.sh"):
        sglang.launch(configured(tmp_path), runtime_dir="/run/t")


def test_endpoints_by_url_start_nothing(tmp_path: Path) -> None:
    config = ModelConfig("m", "sglang", path=str(tmp_path), parameters={"endpoints": "http://127.0.0.1:1"})
    assert sglang.launch(config, runtime_dir="/run/t") == []


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [({}, {Capability.CHAT, Capability.COMPLETIONS}), ({"is_embedding": True}, {Capability.EMBEDDINGS})],
)
def test_its_runner_decides_what_is_offered(
    tmp_path: Path, arguments: dict[str, Any], offered: set[Capability]
) -> None:
    assert sglang.connect(configured(tmp_path, **arguments), Endpoints(), NO_MODELS).capabilities == offered
