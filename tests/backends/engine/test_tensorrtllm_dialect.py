"""TensorRT-LLM's dialect: one test a difference, on requests and on streams as its server writes them."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest

from backends.engine.parameters import DROPPED
from backends.engine.tensorrtllm_dialect import Adapter
from backends.errors import UnsupportedOperation, UpstreamProtocolError
from backends.model import OpenAIRequest
from tests.backends.bodies import pumped, read, stream, whole
from tests.stand_ins.tensorrtllm_protocol import ChatRequest, CompletionRequest

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TURNS = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "wait"}}


def asking(path: str = CHAT, *, is_stream: bool = False, **fields: Any) -> OpenAIRequest:
    own = {"messages": TURNS} if path == CHAT else {"prompt": "Hi"}
    body = {"model": "m", **own, **({"stream": True} if is_stream else {}), **fields}
    return OpenAIRequest(path, json.dumps(body).encode(), "m", stream=is_stream)


def sent(path: str = CHAT, *, context_length: int | None = None, is_stream: bool = False, **fields: Any) -> Any:
    """What goes to the engine, which takes it."""
    request = Adapter(context_length=context_length).request(asking(path, is_stream=is_stream, **fields))
    (ChatRequest if path == CHAT else CompletionRequest).model_validate_json(request.body)
    return json.loads(request.body)


def test_fields_that_it_does_not_know_are_left_out_and_named_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "backends.engine.parameters")
    adapter = Adapter(context_length=None)
    request = adapter.request(asking(store=True, parallel_tool_calls=False, metadata=None, temperature=0.5))
    assert json.loads(request.body) == {"model": "m", "messages": TURNS, "temperature": 0.5}
    assert caplog.messages == ["m: TensorRT-LLM has no word for parallel_tool_calls, store; left out."]
    for answer in (whole(b"{}"), whole(b"{}", status=400)):
        assert (DROPPED, b"parallel_tool_calls, store") in adapter.response(request, answer).headers


def test_an_answer_to_a_request_that_it_knows_has_no_such_header() -> None:
    adapter = Adapter(context_length=None)
    answer = whole(b"{}")
    assert adapter.response(adapter.request(asking(temperature=0)), answer).headers == answer.headers
    assert DROPPED not in dict(answer.headers)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_max_completion_tokens_is_its_max_tokens(path: str) -> None:
    assert sent(path, max_completion_tokens=7)["max_tokens"] == 7
    assert sent(path, max_completion_tokens=7, max_tokens=9)["max_tokens"] == 9
    assert sent(path, max_completion_tokens=None, max_tokens=9)["max_tokens"] == 9


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_without_max_tokens_it_gets_what_the_prompt_leaves_of_the_context(path: str) -> None:
    size = len(asking(path).body)
    assert sent(path, context_length=2048)["max_tokens"] == 2048 - size // 2
    assert sent(path, context_length=2048, max_tokens=None)["max_tokens"] > 1900
    assert sent(path, context_length=2048, max_tokens=5)["max_tokens"] == 5
    assert sent(path, context_length=20)["max_tokens"] == 16


def test_an_image_in_the_request_is_no_text_that_fills_the_context() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    turns = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    assert 900 < sent(context_length=2048, messages=turns)["max_tokens"] < 1024


def test_without_a_known_context_its_own_default_holds() -> None:
    assert "max_tokens" not in sent()


@pytest.mark.parametrize(
    ("asked", "format_"),
    [
        ({"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}, "schema"),
        ({"type": "json_object"}, None),
        ({"type": "regex", "regex": "a+"}, None),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_json_schema_takes_its_own_form(path: str, asked: dict[str, Any], format_: str | None) -> None:
    expected = {"type": "json", "schema": SCHEMA} if format_ else asked
    assert sent(path, response_format=asked)["response_format"] == expected


def test_text_is_no_format_to_speak_of() -> None:
    assert "response_format" not in sent(response_format={"type": "text"})
    assert sent(tools=[TOOL], tool_choice="required", response_format={"type": "text"})["response_format"]["schema"]


@pytest.mark.parametrize("asked", [{"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "n"}}, 5])
def test_a_format_that_cannot_be_read_is_left_for_it_to_judge(asked: Any) -> None:
    request = Adapter(context_length=None).request(asking(response_format=asked))
    assert json.loads(request.body)["response_format"] == asked


@pytest.mark.parametrize(
    ("asked", "format_"),
    [
        ({"guided_json": SCHEMA}, {"type": "json", "schema": SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"type": "json", "schema": SCHEMA}),
        ({"guided_regex": "a+"}, {"type": "regex", "regex": "a+"}),
        ({"guided_choice": ["a.b", "c"]}, {"type": "regex", "regex": r"(a\.b|c)"}),
        ({"guided_grammar": "root ::= x"}, {"type": "ebnf", "ebnf": "root ::= x"}),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, {"type": "json", "schema": SCHEMA}),
        ({"structured_outputs": {"choice": ["a"]}}, {"type": "regex", "regex": "(a)"}),
    ],
)
def test_the_words_of_vllm_for_constrained_output_become_its_own(
    asked: dict[str, Any], format_: dict[str, Any]
) -> None:
    assert sent(**asked) == {"model": "m", "messages": TURNS, "response_format": format_}


def test_stream_options_are_those_that_it_knows_and_only_in_streams() -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    assert sent(is_stream=True, stream_options=options)["stream_options"] == {"include_usage": True}
    # Where they are there, it sends usage unless they say otherwise.
    assert sent(is_stream=True, stream_options={})["stream_options"] == {"include_usage": False}
    assert "stream_options" not in sent(stream_options=options)


def test_all_tokens_are_zero_to_it_and_null_is_nothing() -> None:
    assert sent(top_k=-1, n=None, seed=None) == {"model": "m", "messages": TURNS, "top_k": 0}


def test_a_tool_has_no_strict() -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    adapter = Adapter(context_length=None)
    request = adapter.request(asking(tools=[strict, OTHER], tool_choice="auto"))
    ChatRequest.model_validate_json(request.body)
    assert json.loads(request.body)["tools"] == [TOOL, OTHER]
    assert (DROPPED, b"tools.function.strict") in request.headers


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_demanded_tool_is_named_and_held_to_its_parameters(choice: Any) -> None:
    body = sent(tools=[TOOL], tool_choice=choice)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["response_format"] == {"type": "json", "schema": SCHEMA}


async def test_an_answer_to_a_demand_ends_for_its_call() -> None:
    adapter = Adapter(context_length=None)
    request = adapter.request(asking(tools=[TOOL], tool_choice="required"))
    choices = [{"index": index, "finish_reason": reason} for index, reason in enumerate(("stop", "length"))]
    body = await read(adapter.response(request, whole(json.dumps({"choices": choices}).encode())).body)
    assert [choice["finish_reason"] for choice in json.loads(body)["choices"]] == ["tool_calls", "length"]
    last = {
        "index": 0,
        "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
        "finish_reason": "stop",
    }
    (chunk,) = await told(event([last]), DONE, tools=[TOOL], tool_choice="required")
    assert chunk["choices"][0]["finish_reason"] == "tool_calls"


def test_a_demand_of_any_of_several_tools_is_left_for_it_to_judge() -> None:
    request = Adapter(context_length=None).request(asking(tools=[TOOL, OTHER], tool_choice="required"))
    body = json.loads(request.body)
    assert body["tool_choice"] == "required"
    assert "response_format" not in body


@pytest.mark.parametrize("fields", [{"logprobs": 1}, {"logprobs": 0}, {"suffix": "end"}])
def test_what_text_completions_lack_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOperation, match="TensorRT-LLM") as raised:
        sent(COMPLETIONS, **fields)
    assert raised.value.param in fields


def test_what_text_completions_lack_may_be_asked_for_in_vain() -> None:
    assert sent(COMPLETIONS, logprobs=None, suffix="") == {"model": "m", "prompt": "Hi"}


def test_other_paths_pass_untouched() -> None:
    request = OpenAIRequest("/v1/models", b"", "m", stream=False, method="GET")
    adapter = Adapter(context_length=9)
    assert adapter.request(request) is request
    answer = whole(b"{}")
    assert adapter.response(request, answer) is answer


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return {**counts, "prompt_tokens_details": {"cached_tokens": cached}}


def event(choices: list[Any], told: Any = None, space: str = "", **more: Any) -> bytes:
    fields = {"id": "c", "object": "o", "created": 1, "model": "m", "choices": choices, **more}
    if told is not None:
        fields["usage"] = told
    return f"data: {json.dumps(fields, separators=(',', ':'))}{space}\n\n".encode()


def piece(text: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}}


DONE = b"data: [DONE]\n\n"


async def told(*events: bytes, **fields: Any) -> list[Any]:
    """What a client reads of a stream, decoded; the same however its pieces fall, and by either way to read."""
    adapter = Adapter(context_length=None)
    request = adapter.request(asking(is_stream=True, **fields))
    data = b"".join(events)
    bodies = [
        await read(adapter.response(request, stream(*events)).body),
        await pumped(adapter.response(request, stream(data)).body),
        await read(adapter.response(request, stream(*(data[at : at + 7] for at in range(0, len(data), 7)))).body),
    ]
    if "tool_choice" not in fields:  # ids of calls are made up
        assert bodies[0] == bodies[1] == bodies[2]
    parts = bodies[0].split(b"\n\n")
    assert parts[-2:] == [b"data: [DONE]", b""]
    return [json.loads(part.removeprefix(b"data: ")) for part in parts[:-2]]


async def test_usage_on_every_chunk_becomes_one_chunk_at_the_end() -> None:
    role = event([{"index": 0, "delta": {"role": "assistant"}}], usage(5, 0, 4), space=" ")
    last = event([], usage(5, 2, 4))
    chunks = await told(role, event([piece("a")], usage(5, 1, 4)), event([piece("b")], usage(5, 2, 4)), last, DONE)
    assert [chunk.get("usage") for chunk in chunks] == [None, None, None, usage(5, 2, 4)]
    assert [chunk["choices"] for chunk in chunks[1:]] == [[piece("a")], [piece("b")], []]
    assert {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("c", "o", 1, "m")
    }


async def test_usage_without_a_chunk_of_its_own_is_that_of_the_last_chunks() -> None:
    events = [event([piece("a", 0)], usage(5, 1, 4)), event([piece("b", 1)], usage(5, 1, 4))]
    chunks = await told(*events, event([piece("c", 0)], usage(5, 2, 4)), DONE, n=2)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == usage(5, 3, 4)


async def test_what_a_single_total_tells_is_kept() -> None:
    total = usage(5, 1) | {"completion_tokens_details": {"reasoning_tokens": 1}}
    chunks = await told(event([piece("a")]), event([], total), DONE)
    assert chunks[-1]["usage"] == total


async def test_several_prompts_are_added_up() -> None:
    events = [event([{"index": index, "text": "a"}], usage(5, 1)) for index in (0, 1)]
    chunks = await told(*events, event([], usage(5, 1, 3)), event([], usage(7, 1, 1)), DONE)
    assert chunks[-1]["usage"] == usage(12, 2, 4)
    assert [len(chunk["choices"]) for chunk in chunks] == [1, 1, 0]


async def test_a_stream_without_usage_passes_as_it_came() -> None:
    adapter = Adapter(context_length=None)
    events = [event([{"index": 0, "delta": {"role": "assistant"}}], space=" "), event([piece('a,"usage":{')]), DONE]
    response = adapter.response(adapter.request(asking(is_stream=True)), stream(*events))
    assert await read(response.body) == b"".join(events)


async def test_usage_that_is_null_is_no_usage() -> None:
    chunks = await told(event([piece("a")], usage=None), DONE)
    assert chunks == [json.loads(event([piece("a")], usage=None)[6:])]


async def test_a_named_tools_name_comes_once_and_with_an_id() -> None:
    def call(index: int, part: str) -> bytes:
        said = [{"type": "function", "index": index, "function": {"name": "look", "arguments": part}}]
        return event([{"index": index, "delta": {"tool_calls": said}}])

    named = {"type": "function", "function": {"name": "look"}}
    events = [call(0, "{"), call(1, "["), call(0, "}"), call(1, "]"), DONE]
    chunks = await told(*events, tools=[TOOL], tool_choice=named, n=2)
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks]
    assert [each["function"].get("name") for each in calls] == ["look", "look", None, None]
    assert [bool(each.get("id")) for each in calls] == [True, True, False, False]
    assert "".join(each["function"]["arguments"] for each in calls) == "{[}]"


@pytest.mark.parametrize(
    "broken", [b'data: {"choices":[],"usage":{"prompt\n\n', b'data: {"choices":[{}],"usage":{"prompt_tokens":1}}\n\n']
)
async def test_a_chunk_that_cannot_be_read_is_an_error(broken: bytes) -> None:
    adapter = Adapter(context_length=None)
    response = adapter.response(adapter.request(asking(is_stream=True)), stream(broken, DONE))
    with pytest.raises(UpstreamProtocolError):
        await read(response.body)


def test_only_text_completions_are_continued() -> None:
    adapter = Adapter(context_length=None)
    turns, prompt, longer = (msgspec.Raw(msgspec.json.encode(value)) for value in (TURNS, "a", "ab"))
    assert adapter.continuation({"messages": turns}, CHAT, "b") is None
    assert adapter.continuation({"prompt": prompt}, COMPLETIONS, "b") == {"prompt": longer}


def test_a_default_that_is_not_the_context_is_the_engines_own() -> None:
    seven = msgspec.Raw(b"7")
    assert Adapter(context_length=None).limited({}, COMPLETIONS) == {"max_tokens": msgspec.Raw(b"32")}
    assert Adapter(context_length=None).limited({"max_completion_tokens": seven}, COMPLETIONS) == {
        "max_completion_tokens": seven
    }
    assert Adapter(context_length=100).limited({}, COMPLETIONS) == {}
