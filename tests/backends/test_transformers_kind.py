"""transformers serve: what is launched, what is refused, and how its dialect becomes OpenAI's."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import transformers
from backends.config import ModelConfig
from backends.engine.parameters import DROPPED
from backends.engine.transformers_dialect import Adapter
from backends.errors import InvalidRequest, Unavailable, UnsupportedOperation, UpstreamError
from backends.model import Capability, Endpoints, OpenAIRequest
from tests.backends.bodies import read, stream, whole
from tests.backends.running import NO_MODELS, Engine, demo, offered, running
from tests.waiting import eventually_async

CHAT = "/v1/chat/completions"
STORY = [{"role": "user", "content": "Write a long story about a dragon."}]
LAST = {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of transformers that only looks like one."""
    python = tmp_path / "engines" / "transformers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path / "engines"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return python


def configured(tmp_path: Path, **arguments: Any) -> ModelConfig:
    return ModelConfig("m", backend="transformers", path=str(tmp_path), arguments={"model": "hf", **arguments})


def asked(**fields: Any) -> OpenAIRequest:
    return OpenAIRequest(CHAT, json.dumps({"model": "m", **fields}).encode(), "m", stream=bool(fields.get("stream")))


def event(fields: object) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def test_the_engine_serves_the_folder_under_the_models_name(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"max_position_embeddings": 512}')
    config = configured(tmp_path, device="cpu", compile=True, cb_num_blocks=4, chat_template_kwargs={"a": 1})
    (command,) = transformers.launch(config, runtime_dir="/run/t")
    assert command.argv[:2] == (str(installed), "-P")
    assert command.argv[3:7] == ("/run/t/m-1.sock", "m", str(tmp_path / "hf"), "--continuous-batching")
    options = {"--device=cpu", "--compile", "--cb-num-blocks=4", '--chat-template-kwargs={"a": 1}'}
    assert set(command.argv[7:]) == options
    assert command.env == {"HF_HUB_OFFLINE": "1"}
    assert command.context_length == 512
    assert command.metrics is None


@pytest.mark.usefixtures("installed")
def test_a_model_of_the_hub_is_left_to_the_engine(tmp_path: Path) -> None:
    config = ModelConfig("m", backend="transformers", path=str(tmp_path), arguments={"model": "org/model"})
    (command,) = transformers.launch(config, runtime_dir="/run/t")
    assert command.argv[5] == "org/model"
    assert command.env == {}
    assert command.context_length is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"port": 1}, "port"),
        ({"device": 0}, "device"),
        ({"max_inflight_requests": 0}, "max_inflight_requests"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        transformers.launch(configured(tmp_path, **arguments), runtime_dir="/run/t")


def test_without_its_environment_the_script_that_makes_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ENGINES_DIR", str(tmp_path))
    with pytest.raises(Unavailable, match=r"deploy/engines/transformers\.sh"):
        transformers.launch(configured(tmp_path), runtime_dir="/run/t")


def test_it_offers_chat_and_completions(tmp_path: Path) -> None:
    model = transformers.connect(configured(tmp_path, max_inflight_requests=3), Endpoints(), NO_MODELS)
    assert model.capabilities == {Capability.CHAT, Capability.COMPLETIONS}
    assert model.parallelism == 3


def test_what_would_bind_every_later_request_is_not_sent_and_every_request_streams() -> None:
    request = asked(messages=[], temperature=0.5, top_p=1, seed=1, max_tokens=9, n=1, stop=[], tool_choice="auto")
    fields = json.loads(Adapter().request(request).body)
    assert fields == {"model": "m", "messages": [], "max_tokens": 9, "stream": True}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 2),
        ("stop", ["x"]),
        ("logprobs", True),
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
        ("guided_json", {}),
        ("structured_outputs", {"choice": ["a"]}),
    ],
)
def test_what_the_engine_would_ignore_is_refused(key: str, value: object) -> None:
    with pytest.raises(UnsupportedOperation, match=key) as raised:
        Adapter().request(asked(messages=[], **{key: value}))
    assert raised.value.param == key


def test_sampling_that_is_left_to_the_model_is_named_to_the_client() -> None:
    request = Adapter().request(asked(messages=[], temperature=0.5, seed=7, top_p=None))
    assert not {"temperature", "seed", "top_p"} & json.loads(request.body).keys()
    assert (DROPPED, b"seed, temperature") in Adapter().response(request, stream()).headers


async def test_a_stream_gets_a_usage_chunk_and_an_end() -> None:
    response = stream(event({**LAST, "usage": USAGE}))
    body = await read(Adapter().response(asked(stream=True), response).body)
    first, usage, done, rest = body.split(b"\n\n")
    assert "usage" not in json.loads(first[6:])
    assert json.loads(usage[6:]) == {"id": "c", "created": 1, "model": "m", "choices": [], "usage": USAGE}
    assert (done, rest) == (b"data: [DONE]", b"")


async def test_chunks_carry_the_models_own_name() -> None:
    def said(model: str) -> list[bytes]:
        delta = {"content": '"model":"m@main"'}
        return [
            event({**LAST, "model": model, "choices": [{"index": 0, "delta": delta}]}),
            event({**LAST, "model": model}),
        ]

    body = await read(Adapter().response(asked(stream=True), stream(*said("m@main"))).body)
    assert body == b"".join(said("m"))
    data = [*said("m@main"), event({**LAST, "model": "m@main", "usage": USAGE})]
    assert json.loads(await read(Adapter().response(asked(), stream(*data)).body))["model"] == "m"


async def test_a_stream_that_broke_gets_no_end() -> None:
    response = stream(b'data: {"error": "out of memory"}\n\n')
    assert b"[DONE]" not in await read(Adapter().response(asked(stream=True), response).body)


async def test_a_whole_answer_is_collected_and_an_error_in_it_raised() -> None:
    response = Adapter().response(asked(), stream(event({**LAST, "usage": USAGE})))
    assert json.loads(await read(response.body))["usage"] == USAGE
    with pytest.raises(UpstreamError, match="out of memory"):
        await read(Adapter().response(asked(), stream(b'data: {"error": "out of memory"}\n\n')).body)


def test_errors_and_other_paths_are_not_touched() -> None:
    refused = whole(b"{}", status=422)
    assert Adapter().response(asked(), refused).body is refused.body
    other = OpenAIRequest("/v1/models", b"", "m", stream=False, method="GET")
    assert Adapter().request(other) is other


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running(demo("transformers"), seconds=180.0) as engine:
        yield engine


@pytest.mark.engine
async def test_the_engine_offers_what_its_capabilities_say(engine: Engine) -> None:
    # It answers /v1/responses as well, in a form of its own that is not offered.
    assert await offered(engine) - {Capability.RESPONSES} == engine.model().capabilities


@pytest.mark.engine
async def test_the_engine_counts_what_it_streams(engine: Engine) -> None:
    chunks = await engine.chunks(CHAT, messages=STORY, max_tokens=5)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    answer = await engine.answer(CHAT, messages=STORY, max_tokens=5)
    assert answer["usage"] == chunks[-1]["usage"]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert answer["choices"][0]["message"]["content"] == said


@pytest.mark.engine
@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_stops_the_generation(engine: Engine, is_stream: bool) -> None:
    # The engine has no metrics: whether it works shows in its use of the processor, looked at over a window.
    leaving = asyncio.create_task(engine.ask(CHAT, messages=STORY, max_tokens=1500, stream=is_stream))
    ticks = [_cpu_ticks(engine.process.pid)]

    async def is_busy() -> bool:
        ticks.append(_cpu_ticks(engine.process.pid))
        return ticks[-1] - ticks[0] > 50

    async def is_idle() -> bool:
        before = _cpu_ticks(engine.process.pid)
        await asyncio.sleep(0.3)
        return _cpu_ticks(engine.process.pid) - before < 5

    await eventually_async(is_busy, seconds=30.0)
    assert not leaving.done()
    leaving.cancel()
    await eventually_async(is_idle, seconds=2.0)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
