"""vLLM: Triton's engine arguments become its flags, and its runner decides what it offers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import vllm
from backends.config import ModelConfig
from backends.engine.continuation import by_flag
from backends.errors import InvalidRequest, Unavailable
from backends.model import Capability, Endpoints
from tests.backends.continuing import goes_on_exactly
from tests.backends.running import NO_MODELS, Engine, demo, offered, running
from tests.servers import ROOT
from tests.waiting import eventually_async

START_SECONDS = 240.0


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of vLLM that only looks like one."""
    python = tmp_path / "engines" / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path / "engines"))
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        monkeypatch.delenv(name, raising=False)
    return python


def configured(tmp_path: Path, **arguments: Any) -> ModelConfig:
    return ModelConfig("m", backend="vllm", path=str(tmp_path), arguments={"model": "org/model", **arguments})


def flags(tmp_path: Path, **arguments: Any) -> tuple[str, ...]:
    (command,) = vllm.launch(configured(tmp_path, **arguments), runtime_dir="/run/t")
    return command.argv[3:]


def test_the_engine_listens_on_a_unix_socket_under_the_models_name(installed: Path, tmp_path: Path) -> None:
    (command,) = vllm.launch(configured(tmp_path), runtime_dir="/run/t")
    assert command.argv[0] == str(installed)
    assert command.address == "unix:/run/t/m-1.sock"
    for flag in ("--uds=/run/t/m-1.sock", "--served-model-name=m", "--model=org/model", "--max-num-seqs=256"):
        assert flag in command.argv
    assert command.env == {"VLLM_NO_USAGE_STATS": "1"}
    assert command.context_length is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ({"max_model_len": 2048}, ["--max-model-len=2048"]),
        ({"gpu_memory_utilization": 0.5}, ["--gpu-memory-utilization=0.5"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"disable_log_stats": True}, ["--disable-log-stats"]),
        ({"hf_overrides": {"a": [1, None]}}, ['--hf-overrides={"a": [1, null]}']),
        ({"ignore_patterns": ["a*", "b*"]}, ["--ignore-patterns", "a*", "b*"]),
        ({"lora_modules": [{"name": "l", "path": "p"}]}, ["--lora-modules", '{"name": "l", "path": "p"}']),
        ({"middleware": ["a.b", "c.d"]}, ["--middleware=a.b", "--middleware=c.d"]),
        ({"dtype": "bfloat16"}, ["--dtype=bfloat16"]),
        ({"max_num_seqs": 8}, ["--max-num-seqs=8"]),
        ({"runner": "pooling"}, ["--runner=pooling"]),
        ({"convert": "embed"}, ["--convert=embed", "--runner=pooling"]),
        ({}, ["--runner=generate"]),
        ({"disable_uvicorn_access_log": False}, ["--no-disable-uvicorn-access-log"]),
    ],
)
def test_an_argument_becomes_its_flag(tmp_path: Path, argument: dict[str, Any], expected: list[str]) -> None:
    argv = flags(tmp_path, **argument)
    assert [flag for flag in argv if flag in expected] == expected


@pytest.mark.usefixtures("installed")
def test_what_is_null_false_or_out_of_use_is_left_out(tmp_path: Path) -> None:
    argv = flags(tmp_path, seed=None, disable_log_stats=False, disable_log_requests=True)
    assert not [flag for flag in argv if "seed" in flag or "log-stats" in flag or "log-requests" in flag]


@pytest.mark.usefixtures("installed")
def test_paths_are_relative_to_the_version_directory_and_local_weights_need_no_hub(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "chat.jinja").touch()
    arguments = {"model": "hf", "chat_template": "chat.jinja", "tokenizer": "org/other", "max_model_len": 512}
    config = ModelConfig("m", backend="vllm", path=str(tmp_path), arguments=arguments)
    (command,) = vllm.launch(config, runtime_dir="/run/t")
    assert f"--model={tmp_path / 'hf'}" in command.argv
    assert f"--chat-template={tmp_path / 'chat.jinja'}" in command.argv
    assert "--tokenizer=org/other" in command.argv
    assert command.env["HF_HUB_OFFLINE"] == "1"
    assert command.context_length == 512


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gpu_memory_utilisation": 1}, "gpu_memory_utilisation"),
        ({"port": 8000}, "port"),
        ({"api_key": ["x"]}, "api_key"),
        ({"served_model_name": "x"}, "served_model_name"),
        ({"enforce_eager": "true"}, "enforce_eager"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_seqs": True}, "max_num_seqs"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        vllm.launch(configured(tmp_path, **arguments), runtime_dir="/run/t")


def test_without_its_environment_the_script_that_makes_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path))
    with pytest.raises(Unavailable, match=r"deploy/engines/vllm\.sh"):
        vllm.launch(configured(tmp_path), runtime_dir="/run/t")


@pytest.mark.parametrize(
    ("arguments", "offers", "lacks"),
    [
        ({}, Capability.CHAT, Capability.EMBEDDINGS),
        ({"runner": "pooling"}, Capability.EMBEDDINGS, Capability.CHAT),
        ({"convert": "classify"}, Capability.RERANK, Capability.EMBEDDINGS),
    ],
)
def test_the_runner_decides_what_is_offered(
    tmp_path: Path, arguments: dict[str, Any], offers: Capability, lacks: Capability
) -> None:
    model = vllm.connect(configured(tmp_path, max_num_seqs=4, **arguments), Endpoints(), NO_MODELS)
    assert offers in model.capabilities
    assert lacks not in model.capabilities
    assert model.parallelism == 4


@pytest.fixture(scope="module")
def generator() -> Iterator[Engine]:
    with running(demo("vllm"), seconds=START_SECONDS) as engine:
        yield engine


@pytest.mark.engine
async def test_the_generating_engine_offers_what_its_capabilities_say(generator: Engine) -> None:
    assert await offered(generator) == generator.model().capabilities
    _, models = await generator.get("/v1/models")
    assert json.loads(models)["data"][0]["id"] == generator.config.name
    assert json.loads(models)["data"][0]["max_model_len"] == generator.command.context_length


@pytest.mark.engine
@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_frees_the_engine_within_a_second(generator: Engine, is_stream: bool) -> None:
    fields = {"prompt": "One, two,", "ignore_eos": True, "max_tokens": 1900, "stream": is_stream}
    leaving = asyncio.create_task(generator.ask("/v1/completions", **fields))

    async def busy() -> bool:
        return await generator.gauge("vllm:num_requests_running") == 1

    async def idle() -> bool:
        return await generator.gauge("vllm:num_requests_running") == 0

    await eventually_async(busy)
    leaving.cancel()
    await eventually_async(idle, seconds=1.0)


@pytest.mark.engine
async def test_the_engine_says_how_much_of_a_prompt_was_cached(generator: Engine) -> None:
    question = {"messages": [{"role": "user", "content": "again " * 400}], "max_tokens": 1}
    await generator.answer("/v1/chat/completions", **question)
    usage = (await generator.answer("/v1/chat/completions", **question))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.engine
async def test_the_engine_calls_a_tool_on_demand(generator: Engine) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    answer = await generator.answer(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "What time is it?"}],
        tools=[tool],
        tool_choice="required",
        max_tokens=400,
        temperature=0,
    )
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "now"


@pytest.mark.engine
def test_the_pooling_engine_offers_what_its_capabilities_say() -> None:
    with running(demo(repository=ROOT / "tests" / "model_repository"), seconds=START_SECONDS) as engine:
        assert asyncio.run(offered(engine)) == engine.model().capabilities


@pytest.mark.engine
async def test_the_engine_goes_on_with_an_answer_begun_elsewhere(generator: Engine) -> None:
    await goes_on_exactly(generator, by_flag)
