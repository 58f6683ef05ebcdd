"""One OpenAI request works on TensorRT-LLM: through the gateway, on a stand-in that its kind started."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from backends.engine.load import METRICS_PATHS, read_load
from tests.clients.asking import COUNT, OTHER_TOOL, PERSON_SCHEMA, TOOL, WEATHER
from tests.faults.looking import samples
from tests.faults.talking import COMPLETIONS, ask, asking, question
from tests.servers import Tritium, serving
from tests.stand_ins.served import MODEL, serving_stand_in
from tests.stand_ins.tensorrtllm import DEFAULT_MAX_TOKENS
from tests.stand_ins.words import NATURAL_TOKENS
from tests.waiting import eventually

pytestmark = pytest.mark.slow

# What the engine looks for a departure by, and the time to see it.
FREED_SECONDS = 2.5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tritium, str]]:
    with serving_stand_in(tmp_path_factory.mktemp("stand-in"), max_batch_size=8) as found:
        yield found


@pytest.fixture
def client(served: tuple[Tritium, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[0].url}/v1", api_key="none", max_retries=0) as client:
        yield client


def load(engine: str) -> Any:
    found = read_load("tensorrtllm", httpx.get(engine + METRICS_PATHS["tensorrtllm"]).content)
    assert found is not None
    return found


def test_the_stand_in_is_strict_where_the_real_one_is(served: tuple[Tritium, str]) -> None:
    _, engine = served
    asked = {"model": MODEL, "messages": COUNT}
    unknown = httpx.post(f"{engine}/v1/chat/completions", json={**asked, "store": True})
    assert unknown.status_code == 400
    assert "Extra inputs are not permitted" in unknown.json()["error"]
    schema = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON_SCHEMA}}
    assert httpx.post(f"{engine}/v1/chat/completions", json={**asked, "response_format": schema}).status_code == 400
    too_long = httpx.post(f"{engine}/v1/chat/completions", json={**asked, "max_tokens": 5000})
    assert too_long.json()["object"] == "error"
    short = httpx.post(f"{engine}/v1/chat/completions", json={**asked, "ignore_eos": True}).json()
    assert short["usage"]["completion_tokens"] == DEFAULT_MAX_TOKENS


def test_what_was_left_out_is_told_in_a_header(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": COUNT, "max_tokens": 2, "store": True, "parallel_tool_calls": False}
    for is_stream in (False, True):
        answer = client.chat.completions.with_raw_response.create(**asked, stream=is_stream)
        assert answer.headers["x-tritium-dropped-params"] == "parallel_tool_calls, store"
        answer.http_response.close()
    plain = client.chat.completions.with_raw_response.create(model=MODEL, messages=COUNT, max_tokens=2)
    assert "x-tritium-dropped-params" not in plain.headers


def test_its_flat_errors_come_in_the_envelope(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="should not exceed max_seq_len") as raised:
        client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=5000)
    assert (raised.value.type, raised.value.code) == ("BadRequestError", "400")
    wrong: Any = {"model": MODEL, "messages": 5}
    with pytest.raises(openai.BadRequestError, match="valid list") as raised:
        client.chat.completions.create(**wrong)
    assert raised.value.type == "invalid_request_error"


def test_an_answer_is_as_long_as_the_context_lets_it_be(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=COUNT)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == NATURAL_TOKENS > DEFAULT_MAX_TOKENS


def test_usage_comes_once_and_only_where_it_is_asked_for(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": COUNT, "max_tokens": 3, "stream": True}
    plain = list(client.chat.completions.create(**asked))
    assert not any(chunk.usage for chunk in plain)
    assert all(chunk.choices for chunk in plain)
    counted = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert [chunk.usage is not None for chunk in counted] == [False] * (len(counted) - 1) + [True]
    assert counted[-1].choices == []


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_follows_its_schema(client: openai.OpenAI, is_stream: bool) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON_SCHEMA}}
    asked: Any = {"model": MODEL, "messages": COUNT, "response_format": schema}
    if is_stream:
        text = "".join(
            part.choices[0].delta.content or "" for part in client.chat.completions.create(**asked, stream=True)
        )
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content or ""
    assert list(json.loads(text)) == ["name", "age"]


def test_a_demanded_tool_is_called_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=WEATHER, tools=[TOOL], tool_choice="required", max_tokens=200
    ) as stream:
        final = list(stream) and stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.name, list(json.loads(call.function.arguments))) == ("get_weather", ["city"])
    assert call.id
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_demand_of_any_of_several_tools_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        client.chat.completions.create(
            model=MODEL, messages=WEATHER, tools=[TOOL, OTHER_TOOL], tool_choice="required", max_tokens=20
        )


def test_logprobs_of_a_text_completion_are_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="One,", max_tokens=2, logprobs=1)
    assert (raised.value.code, raised.value.param) == ("unsupported_operation", "logprobs")


async def test_its_role_chunks_are_whole_events(served: tuple[Tritium, str]) -> None:
    answer, body = await ask(served[0].url, question(model=MODEL, stream=True, max_tokens=2))
    assert answer.status == 200
    assert b'{"role":"assistant"}' in body.split(b"\n\n")[0]
    assert body.endswith(b"data: [DONE]\n\n")


def test_a_remote_that_says_it_is_one_is_bridged_and_measured_as_one(
    served: tuple[Tritium, str], tmp_path: Path
) -> None:
    (tmp_path / "remote" / "1").mkdir(parents=True)
    parameters = {"endpoints": served[1], "engine": "tensorrtllm", "model": "theirs"}
    lines = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    (tmp_path / "remote" / "config.pbtxt").write_text("\n".join(['backend: "openai"', *lines]))
    with serving(tmp_path) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.chat.completions.with_raw_response.create(
            model="remote", messages=COUNT, max_completion_tokens=2, store=True
        )
        up = samples(server, "/metrics/engines")
    assert answer.headers["x-tritium-dropped-params"] == "store"
    assert answer.parse().model == "theirs"
    assert [value for (name, _), value in up.items() if name == "tritium_engine_scrape_up"] == [1]
    assert "trtllm_num_requests_running" in {name for name, _ in up}


@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_frees_the_engine_once_it_looks(served: tuple[Tritium, str], is_stream: bool) -> None:
    server, engine = served
    endless = question(COMPLETIONS, model=MODEL, stream=is_stream, ignore_eos=True, max_tokens=2000)
    endless["max_tokens"] = 2000
    async with asking(server.url, endless, COMPLETIONS):
        await asyncio.to_thread(eventually, lambda: load(engine).running == 1)
    await asyncio.to_thread(eventually, lambda: load(engine).running == 0, seconds=FREED_SECONDS)
