"""llama.cpp: what is launched, what is refused, and what the real engine does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import llamacpp
from backends.config import ModelConfig
from backends.engine.continuation import by_prefill
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints
from tests.backends.bodies import QUESTION, TOOLS
from tests.backends.continuing import goes_on_exactly
from tests.backends.running import NO_MODELS, Engine, demo, offered, running
from tests.waiting import eventually_async

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def configured(tmp_path: Path, **arguments: object) -> ModelConfig:
    (tmp_path / "m.gguf").touch()
    return ModelConfig("m", backend="llamacpp", path=str(tmp_path), arguments={"model": "m.gguf", **arguments})


def test_one_process_on_a_unix_socket_is_launched(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").touch()
    config = configured(tmp_path, n_parallel=2, n_ctx=512, chat_template="t.jinja")
    (command,) = llamacpp.launch(config, runtime_dir=str(tmp_path))
    assert command.address == f"unix:{tmp_path}/m-1.sock"
    assert command.context_length == 512
    arguments = json.loads(command.argv[-1])
    assert arguments["model"] == str(tmp_path / "m.gguf")
    assert arguments["chat_template"] == str(tmp_path / "t.jinja")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gpu_layers": 1}, "gpu_layers"),
        ({"n_parallel": "8"}, "n_parallel"),
        ({"n_parallel": 0}, "n_parallel"),
        ({"n_ctx": -1}, "n_ctx"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n_batch": 0}, "n_batch"),
        ({"pooling": "best"}, "pooling"),
        ({"model": "gone.gguf"}, r"gone\.gguf"),
        ({"chat_template": "gone.jinja"}, r"gone\.jinja"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(tmp_path: Path, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        llamacpp.launch(configured(tmp_path, **arguments), runtime_dir=str(tmp_path))


def test_a_long_model_name_still_has_a_socket_that_fits(tmp_path: Path) -> None:
    config = ModelConfig("n" * 200, backend="llamacpp", path=str(tmp_path), arguments={"model": "m.gguf"})
    (tmp_path / "m.gguf").touch()
    (command,) = llamacpp.launch(config, runtime_dir="/run/tritium")
    assert len(command.address.removeprefix("unix:")) < 108


def test_an_embedder_offers_embeddings_and_no_chat(tmp_path: Path) -> None:
    model = llamacpp.connect(configured(tmp_path, embedding=True, n_parallel=3), Endpoints(), NO_MODELS)
    assert Capability.EMBEDDINGS in model.capabilities
    assert Capability.CHAT not in model.capabilities
    assert model.parallelism == 3


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running(demo()) as engine:
        yield engine


@pytest.mark.engine
async def test_the_engine_offers_what_its_capabilities_say(engine: Engine) -> None:
    assert await offered(engine) == engine.model().capabilities


@pytest.mark.engine
async def test_the_engine_counts_several_choices_as_its_streams_do(engine: Engine) -> None:
    fields = {"messages": QUESTION, "n": 2, "max_tokens": 6, "ignore_eos": True}
    before = await engine.gauge("llamacpp:tokens_predicted_total")
    answer = await engine.answer(CHAT, **fields)
    assert answer["usage"]["completion_tokens"] == 12
    streamed = await engine.chunks(CHAT, **fields)
    assert streamed[-1]["usage"]["completion_tokens"] == 12
    assert await engine.gauge("llamacpp:tokens_predicted_total") == before + 24
    (last,) = [chunk for chunk in await engine.chunks(COMPLETIONS, prompt="A", max_tokens=3) if "usage" in chunk]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)


@pytest.mark.engine
async def test_the_engine_stops_at_the_cap(engine: Engine) -> None:
    answer = await engine.answer(COMPLETIONS, prompt="One, two,", max_tokens=10**6, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == engine.config.arguments["max_tokens"]
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.engine
async def test_the_engine_tokenizes_messages_as_it_counts_them(engine: Engine) -> None:
    tokens = await engine.answer("/tokenize", messages=QUESTION)
    counted = await engine.answer("/v1/messages/count_tokens", messages=QUESTION)
    assert tokens["count"] == len(tokens["tokens"]) == counted["input_tokens"]
    text = await engine.answer("/detokenize", tokens=tokens["tokens"])
    assert "What is the weather in Paris?" in text["prompt"]
    status, body = await engine.ask("/tokenize", messages="none")
    assert status == 400, body


@pytest.mark.engine
async def test_the_engine_calls_a_tool_on_demand_and_follows_a_schema(engine: Engine) -> None:
    answer = await engine.answer(CHAT, messages=QUESTION, tools=TOOLS, tool_choice="required", temperature=0)
    function = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert function["name"] in {"get_weather", "get_time"}
    json.loads(function["arguments"])
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    constraint = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    answer = await engine.answer(CHAT, messages=QUESTION, response_format=constraint, max_tokens=200)
    assert list(json.loads(answer["choices"][0]["message"]["content"])) == ["n"]


@pytest.mark.engine
@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_frees_the_engine_within_a_second(engine: Engine, is_stream: bool) -> None:
    fields = {"prompt": "One, two,", "ignore_eos": True, "stream": is_stream}
    leaving = asyncio.create_task(engine.ask(COMPLETIONS, **fields))

    async def busy() -> bool:
        return await engine.gauge("llamacpp:requests_processing") == 1

    async def idle() -> bool:
        return await engine.gauge("llamacpp:requests_processing") == 0

    await eventually_async(busy)
    leaving.cancel()
    await eventually_async(idle, seconds=1.0)


@pytest.mark.engine
def test_the_engine_exits_on_sigterm_in_the_middle_of_a_stream() -> None:
    with running(demo()) as engine:

        async def interrupted() -> int:
            asking = asyncio.create_task(engine.ask(COMPLETIONS, prompt="One,", ignore_eos=True, stream=True))

            async def busy() -> bool:
                return await engine.gauge("llamacpp:requests_processing") == 1

            await eventually_async(busy)
            status = await asyncio.to_thread(engine.stop)
            await asyncio.gather(asking, return_exceptions=True)
            return status

        assert asyncio.run(interrupted()) == 0


@pytest.mark.engine
def test_weights_that_are_none_are_a_clear_end(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    config = ModelConfig("m", backend="llamacpp", path=str(tmp_path), arguments={"model": "m.gguf"})
    with pytest.raises(AssertionError, match=r"llama\.cpp did not start"), running(config):
        pass


@pytest.mark.engine
async def test_the_engine_goes_on_with_an_answer_begun_elsewhere(engine: Engine) -> None:
    await goes_on_exactly(engine, by_prefill)
