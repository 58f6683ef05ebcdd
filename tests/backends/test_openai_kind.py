"""A remote server: its parameters, its key, its own name for the model, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import openai
from backends.config import ModelConfig
from backends.errors import InvalidRequest
from backends.model import ENGINE_CAPABILITIES, Capability, Endpoint, Endpoints, OpenAIRequest, State
from tests.backends.running import NO_MODELS
from tests.engines import echo_engine

CHAT = "/v1/chat/completions"


def configured(**parameters: str) -> ModelConfig:
    return ModelConfig("m", backend="openai", parameters={"endpoints": "http://127.0.0.1:1", **parameters})


def test_nothing_is_started(tmp_path: Path) -> None:
    assert openai.launch(configured(), runtime_dir="/run/t") == []
    config = ModelConfig("m", "openai", parameters={"endpoints_file": str(tmp_path / "list")})
    assert openai.launch(config, runtime_dir="/run/t") == []


def test_without_any_endpoint_it_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'endpoints' is missing"):
        openai.launch(ModelConfig("m", "openai"), runtime_dir="/run/t")


def test_routing_and_naming_parameters_are_known() -> None:
    parameters = {"routing_policy": "round_robin", "retries": "1", "aliases": "other", "fallbacks": "small"}
    assert openai.launch(configured(**parameters), runtime_dir="/run/t") == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"endpoint": "http://host"}, "'endpoint' is unknown"),
        ({"capabilities": "chat,dance"}, "dance"),
        ({"max_inflight_requests": "0"}, "max_inflight_requests"),
        ({"max_inflight_requests": "many"}, "max_inflight_requests"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(parameters: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        openai.launch(configured(**parameters), runtime_dir="/run/t")


@pytest.mark.parametrize("value", [None, "", "line\nbreak"])
def test_a_key_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("REMOTE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("REMOTE_KEY", value)
    with pytest.raises(InvalidRequest, match="REMOTE_KEY"):
        openai.connect(configured(api_key_env="REMOTE_KEY"), Endpoints(), NO_MODELS)


def test_it_offers_everything_unless_told() -> None:
    assert openai.connect(configured(), Endpoints(), NO_MODELS).capabilities == ENGINE_CAPABILITIES
    model = openai.connect(
        configured(capabilities="chat, embeddings", max_inflight_requests="7"), Endpoints(), NO_MODELS
    )
    assert model.capabilities == {Capability.CHAT, Capability.EMBEDDINGS}
    assert model.parallelism == 7


async def test_the_remote_gets_its_own_model_name_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_KEY", "sk-remote")
    with echo_engine(tcp=True, model="remote-name") as engine:
        config = configured(endpoints=f"{engine.address}/v1", model="remote-name", api_key_env="REMOTE_KEY")
        model = openai.connect(config, Endpoints((Endpoint("remote", engine.address, State.READY),)), NO_MODELS)
        body = b'{ "messages":[{"role":"user","content":"a  \\u00e9 b"}], "model":"m","max_tokens":2, "x":1.50}'
        response = await model.respond(OpenAIRequest(CHAT, body, "m", stream=False))
        answer: dict[str, Any] = json.loads(b"".join([data async for data in response.body]))
        await response.body.aclose()
        model.close()
        assert response.status == 200, answer
        last = engine.stats()["last"]
        assert dict(last["headers"])["authorization"] == "Bearer sk-remote"
        assert answer["model"] == "remote-name"


def test_only_the_name_is_changed_and_only_where_it_differs() -> None:
    adapter = openai._Renaming("remote", openai._Plain())
    body = b'{"model":"m","messages":[{"role":"user", "content":"\\u00e9"}],"temperature":1.50}'
    changed = adapter.request(OpenAIRequest(CHAT, body, "m", stream=False)).body
    assert changed == body.replace(b'"model":"m"', b'"model":"remote"')
    asking = OpenAIRequest("/v1/responses/r", b"", "m", stream=False, method="GET")
    assert adapter.request(asking) is asking


def bridged(body: dict[str, Any], **parameters: str) -> OpenAIRequest:
    adapter = openai._adapter(configured(**parameters))
    return adapter.request(OpenAIRequest(CHAT, json.dumps(body).encode(), "m", stream=False))


def test_what_runs_there_chooses_the_dialect() -> None:
    asked = {"model": "m", "messages": [], "store": True}
    assert bridged(asked).body == json.dumps(asked).encode()
    assert bridged(asked, engine="vllm").body == json.dumps(asked).encode()
    changed = bridged(asked, engine="tensorrtllm", model="theirs", context_length="1000")
    size = len(json.dumps(asked | {"model": "theirs"}, separators=(",", ":")))
    assert json.loads(changed.body) == {"model": "theirs", "messages": [], "max_tokens": 1000 - size // 2}
    capped = bridged({"model": "m", "messages": [], "max_tokens": 99}, engine="llamacpp", max_tokens="7")
    assert json.loads(capped.body)["max_tokens"] == 7


@pytest.mark.parametrize("engine", ["", "vllm", "sglang", "llamacpp", "tensorrtllm"])
def test_what_runs_there_decides_how_its_broken_chats_go_on(engine: str) -> None:
    adapter = openai._adapter(configured(engine=engine))
    fields = {"messages": msgspec.Raw(b'[{"role":"user","content":"Hi"}]')}
    continued = adapter.continuation(fields, CHAT, "One,")
    assert (continued is not None) == (engine in {"vllm", "sglang", "llamacpp"})


@pytest.mark.parametrize(
    ("parameter", "value"), [("engine", "tgi"), ("context_length", "long"), ("max_inflight_requests", "0")]
)
def test_a_parameter_that_says_nothing_is_refused_by_name(parameter: str, value: str) -> None:
    parameters = {"engine": "tensorrtllm", parameter: value}
    with pytest.raises(InvalidRequest) as raised:
        openai.launch(configured(**parameters), runtime_dir="/run/t")
    assert raised.value.param == parameter
