"""llama.cpp: what is launched, what is refused, and how its dialect becomes OpenAI's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import llamacpp
from backends.config import ModelConfig
from backends.engine.llamacpp_dialect import Adapter
from backends.errors import InvalidRequest, UpstreamProtocolError
from backends.model import Capability, Endpoints, OpenAIRequest, OpenAIResponse
from tests.backends.bodies import pumped, read, stream, whole
from tests.backends.running import NO_MODELS, Engine, demo, offered, running
from tests.waiting import eventually_async

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


def configured(tmp_path: Path, **arguments: object) -> ModelConfig:
    (tmp_path / "m.gguf").touch()
    return ModelConfig("m", backend="llamacpp", path=str(tmp_path), arguments={"model": "m.gguf", **arguments})


def adapter() -> Adapter:
    return Adapter(max_tokens=100, context_length=2048)


def asked(path: str, **fields: Any) -> OpenAIRequest:
    body = json.dumps({"model": "m", **fields}).encode()
    return OpenAIRequest(path, body, "m", stream=bool(fields.get("stream")))


def sent(path: str, **fields: Any) -> dict[str, Any]:
    """What the engine is asked for."""
    decoded: dict[str, Any] = json.loads(adapter().request(asked(path, **fields)).body)
    return decoded


async def answered(request: OpenAIRequest, response: OpenAIResponse) -> bytes:
    """What the client gets for it."""
    bridge = adapter()
    return await read(bridge.response(bridge.request(request), response).body)


def events(*chunks: object) -> list[bytes]:
    return [
        b"data: " + (b"[DONE]" if chunk == "[DONE]" else json.dumps(chunk, separators=(",", ":")).encode()) + b"\n\n"
        for chunk in chunks
    ]


def chunks(data: bytes) -> list[Any]:
    found = [event.removeprefix("data: ") for event in data.decode().split("\n\n")[:-1]]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


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


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens"])
@pytest.mark.parametrize(("value", "capped"), [(101, 100), (1e9, 100), (-1, 100), (10**30, 100), (100, 100), (5, 5)])
def test_more_tokens_than_the_cap_are_never_asked_for(key: str, value: float, capped: int) -> None:
    assert sent(CHAT, messages=[], **{key: value})[key] == capped


def test_a_request_that_needs_no_bridge_goes_out_as_it_came() -> None:
    for request in (
        asked(CHAT, messages=[], max_tokens=7, n=1, tool_choice="auto", tools=TOOLS),
        asked(CHAT, messages=[], max_tokens=None, stream=True, n=2),
        asked("/v1/messages", messages=[], max_tokens="many"),
        OpenAIRequest("/v1/responses/resp_1", b"", "m", stream=False, method="GET"),
    ):
        assert adapter().request(request) is request


async def test_a_chat_stream_of_one_choice_is_not_touched() -> None:
    response = stream(b"data: x\n\n")
    assert adapter().response(asked(CHAT, stream=True), response).body is response.body


async def test_an_error_is_not_touched() -> None:
    response = whole(b'{"error":{}}', status=400)
    assert adapter().response(asked("/tokenize", prompt="x"), response).body is response.body


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
async def test_usage_of_a_completion_stream_becomes_a_chunk_of_its_own_wherever_the_pieces_end(size: int) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}
    text = {
        "id": "c",
        "object": "text_completion",
        "choices": [{"index": 0, "text": 'a "usage":{', "finish_reason": None}],
    }
    last = {**text, "choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    data = b"".join(events(text, {**last, "usage": usage}, "[DONE]"))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    request = asked(COMPLETIONS, prompt="x", stream=True)
    expected = [text, last, {"id": "c", "object": "text_completion", "choices": [], "usage": usage}, "[DONE]"]
    assert chunks(await answered(request, stream(*pieces))) == expected
    assert chunks(await pumped(adapter().response(request, stream(*pieces)).body)) == expected


async def test_usage_of_several_choices_is_added_up_in_a_stream() -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    data = events({"id": "c", "choices": [], "usage": usage}, {"id": "c", "choices": [], "usage": usage}, "[DONE]")
    usages = chunks(await answered(asked(CHAT, stream=True, n=2), stream(*data)))
    total = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    assert usages == [{"id": "c", "choices": [], "usage": total}, "[DONE]"]


async def test_a_broken_stream_gets_no_usage_and_no_end() -> None:
    data = events({"choices": [{"index": 0, "text": "a"}]}, {"error": {"message": "x"}})
    assert b"[DONE]" not in await answered(asked(COMPLETIONS, stream=True), stream(*data, b"data: {"))


async def test_closing_a_bridged_body_closes_the_engines() -> None:
    for path, is_stream in ((COMPLETIONS, True), ("/tokenize", False)):
        response = stream()
        pieces = response.body
        await adapter().response(asked(path, prompt="", stream=is_stream), response).body.aclose()
        assert pieces.is_closed  # type: ignore[attr-defined]  # it is ours


@pytest.mark.parametrize("with_logprobs", [False, True])
async def test_usage_of_several_choices_counts_all_their_tokens(with_logprobs: bool) -> None:
    token = {
        "token": "a",
        "logprob": -1.0,
        "bytes": [97],
        "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}],
    }
    choices = [
        {"index": i, "message": {"role": "assistant", "content": "aa"}, "logprobs": {"content": [token] * (2 + i)}}
        for i in range(2)
    ]
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 1} if with_logprobs else {}
    request = asked(CHAT, messages=[], n=2, **fields)
    assert json.loads(adapter().request(request).body)["logprobs"] is True
    answer = json.loads(await answered(request, whole(json.dumps({"choices": choices, "usage": usage}).encode())))
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert (answer["choices"][0]["logprobs"] is not None) == with_logprobs


async def test_logprobs_of_completions_have_openais_form() -> None:
    def token(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -0.5, "top_logprobs": [{"token": text, "logprob": -0.5}]}

    first = {"choices": [{"index": 0, "text": "ab", "logprobs": {"content": [token("ab")]}}]}
    second = {"choices": [{"index": 0, "text": "c", "logprobs": {"content": [token("c")]}}]}
    request = asked(COMPLETIONS, prompt="x", logprobs=1, stream=True)
    one, two, _ = chunks(await answered(request, stream(*events(first, second, "[DONE]"))))
    assert one["choices"][0]["logprobs"] == {
        "tokens": ["ab"], "token_logprobs": [-0.5], "top_logprobs": [{"ab": -0.5}], "text_offset": [0],
    }  # fmt: skip
    assert two["choices"][0]["logprobs"]["text_offset"] == [2]


async def test_tokenize_and_detokenize_have_vllms_form() -> None:
    request = asked("/tokenize", prompt="Hi", return_token_strs=True)
    assert json.loads(adapter().request(request).body) == {"content": "Hi", "add_special": True, "with_pieces": True}
    pieces = {"tokens": [{"id": 7, "piece": "H"}, {"id": 8, "piece": [105]}]}
    answer = json.loads(await answered(request, whole(json.dumps(pieces).encode())))
    assert answer == {"count": 2, "max_model_len": 2048, "tokens": [7, 8], "token_strs": ["H", "i"]}
    plain = asked("/tokenize", prompt="Hi", add_special_tokens=False)
    assert json.loads(await answered(plain, whole(b'{"tokens":[7]}')))["token_strs"] is None
    text = await answered(asked("/detokenize", tokens=[7]), whole(b'{"content":"H"}'))
    assert json.loads(text) == {"prompt": "H"}


def test_tokenize_without_a_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        adapter().request(asked("/tokenize", text="Hi"))


async def test_an_answer_that_is_not_json_is_a_protocol_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        await answered(asked("/detokenize", tokens=[7]), whole(b"oops"))


@pytest.mark.parametrize(
    ("tool_choice", "finish_reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "get_weather"}}, "stop")],
)
async def test_a_demanded_tool_call_is_constrained_and_comes_back_as_one(tool_choice: Any, finish_reason: str) -> None:
    request = asked(CHAT, messages=QUESTION, tools=TOOLS, tool_choice=tool_choice)
    fields = json.loads(adapter().request(request).body)
    schema = fields["response_format"]["json_schema"]["schema"]
    assert fields["tool_choice"] == "none"
    assert fields["tools"] == TOOLS
    names = [each["properties"]["name"]["const"] for each in schema.get("anyOf", [schema])]
    assert names == (["get_weather", "get_time"] if tool_choice == "required" else ["get_weather"])
    content = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    (choice,) = json.loads(await answered(request, whole(json.dumps({"choices": [choice]}).encode())))["choices"]
    assert choice["finish_reason"] == finish_reason
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}


def delta(text: str | None = None, finish_reason: str | None = None, **fields: object) -> dict[str, Any]:
    said = {} if text is None else {"content": text}
    return {"choices": [{"finish_reason": finish_reason, "index": 0, "delta": {**said, **fields}}], "id": "c"}


async def test_a_demanded_tool_call_streams_in_one_piece() -> None:
    request = asked(CHAT, messages=QUESTION, tools=TOOLS, tool_choice="required", stream=True)
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    data = events(
        delta(role="assistant", content=None), delta('{"name":"get_time",'), delta('"arguments":{}}'),
        delta(finish_reason="stop"), {"choices": [], "id": "c", "usage": usage}, "[DONE]",
    )  # fmt: skip
    role, call, end, total, done = chunks(await answered(request, stream(*data)))
    assert role["choices"][0]["delta"]["role"] == "assistant"
    (made,) = call["choices"][0]["delta"]["tool_calls"]
    assert (made["index"], made["function"]) == (0, {"name": "get_time", "arguments": "{}"})
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert (total["usage"], done) == (usage, "[DONE]")


async def test_a_demanded_tool_call_that_was_cut_stays_text() -> None:
    request = asked(CHAT, messages=QUESTION, tools=TOOLS, tool_choice="required", stream=True)
    data = events(delta('{"name":'), delta(finish_reason="length"), "[DONE]")
    text, end, _ = chunks(await answered(request, stream(*data)))
    assert text["choices"][0]["delta"] == {"content": '{"name":'}
    assert end["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tool_choice": "required"}, "no 'tools'"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "'nope'"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "cannot be read"),
    ],
)
def test_a_tool_call_that_cannot_be_made_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        adapter().request(asked(CHAT, messages=QUESTION, **fields))


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
async def test_leaving_frees_the_engine(engine: Engine, is_stream: bool) -> None:
    # Without a stream to write to, llama.cpp looks for its client once a second.
    seconds = 1.0 if is_stream else 1.5
    fields = {"prompt": "One, two,", "ignore_eos": True, "stream": is_stream}
    leaving = asyncio.create_task(engine.ask(COMPLETIONS, **fields))

    async def busy() -> bool:
        return await engine.gauge("llamacpp:requests_processing") == 1

    async def idle() -> bool:
        return await engine.gauge("llamacpp:requests_processing") == 0

    await eventually_async(busy)
    leaving.cancel()
    await eventually_async(idle, seconds=seconds)


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
