"""llama.cpp's dialect becomes OpenAI's, wherever the pieces of a body end."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.engine.llamacpp_dialect import Adapter
from backends.errors import InvalidRequest, UnsupportedOperation, UpstreamProtocolError
from backends.model import OpenAIRequest, OpenAIResponse
from tests.backends.bodies import QUESTION, TOOLS, pumped, read, stream, whole

CHAT = "/v1/chat/completions"
PROGRESS = [{"choices": [{"index": 0}], "prompt_progress": {"total": 9, "processed": each}} for each in (0, 9)]
COMPLETIONS = "/v1/completions"


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


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens"])
@pytest.mark.parametrize(("value", "capped"), [(101, 100), (1e9, 100), (-1, 100), (10**30, 100), (100, 100), (5, 5)])
def test_more_tokens_than_the_cap_are_never_asked_for(key: str, value: float, capped: int) -> None:
    assert sent(CHAT, messages=[], **{key: value})[key] == capped


def test_a_request_that_needs_no_bridge_goes_out_as_it_came_with_one_field() -> None:
    for request in (
        asked(CHAT, messages=[], max_tokens=7, n=1, tool_choice="auto", tools=TOOLS, stream=True),
        asked(CHAT, messages=[], max_tokens=None, stream=True, n=2),
    ):
        assert adapter().request(request).body == b'{"return_progress":true,' + request.body[1:]
    for request in (
        asked("/v1/messages", messages=[], max_tokens="many", stream=True),
        OpenAIRequest("/v1/responses/resp_1", b"", "m", stream=False, method="GET"),
    ):
        assert adapter().request(request) is request


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/responses", "/v1/messages"])
def test_a_whole_answer_is_streamed_by_the_engine(path: str) -> None:
    fields = sent(path, stream=False, other=[1])
    assert (fields["stream"], fields["stream_options"], fields["other"]) == (True, {"include_usage": True}, [1])


def test_our_own_marks_cannot_come_from_a_client() -> None:
    assert "tritium_demand" not in sent(CHAT, stream=True, tritium_demand="stop")


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_chat_stream_of_one_choice_is_its_bytes_without_the_progress_before_it(size: int) -> None:
    said = delta('a "prompt_progress":{')
    data = b"".join(events(*PROGRESS, said, said, "[DONE]"))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    request, expected = asked(CHAT, stream=True), b"".join(events(said, said, "[DONE]"))
    assert await answered(request, stream(*pieces)) == expected
    assert await pumped(adapter().response(request, stream(*pieces)).body) == expected


async def test_what_is_left_of_a_stream_that_broke_in_its_prompt_is_passed_on() -> None:
    request = asked(CHAT, stream=True)
    for pieces, rest in (((events(*PROGRESS)[0], b"data: {"), b"data: {"), ((), b"")):
        assert await answered(request, stream(*pieces)) == rest
        assert await pumped(adapter().response(request, stream(*pieces)).body) == rest
    with pytest.raises(UpstreamProtocolError):
        await answered(request, stream(b"x" * (17 * 1024 * 1024)))


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


async def test_usage_of_several_prompts_counts_each_of_them_once() -> None:
    def last(index: int, prompt_tokens: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 2, "total_tokens": prompt_tokens + 2}
        return {"id": "c", "choices": [{"index": index, "text": "a", "finish_reason": "length"}], "usage": usage}

    # Two choices for each of two prompts; the first word of several prompts is "null".
    data = events(None, last(0, 4), last(1, 4), *PROGRESS, last(2, 3), last(3, 3), "[DONE]")
    sent = chunks(await answered(asked(COMPLETIONS, prompt=["a", "b"], n=2, stream=True), stream(*data)))
    assert [chunk["choices"][0]["index"] for chunk in sent[:4]] == [0, 1, 2, 3]
    total = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    assert sent[4:] == [{"id": "c", "choices": [], "usage": total}, "[DONE]"]


@pytest.mark.parametrize("fields", [{"echo": True}, {"best_of": 2}, {"suffix": "."}])
def test_what_the_engine_would_ignore_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOperation, match=next(iter(fields))) as raised:
        adapter().request(asked(COMPLETIONS, prompt="x", stream=True, **fields))
    assert raised.value.param == next(iter(fields))
    adapter().request(asked(COMPLETIONS, prompt="x", stream=True, echo=False, best_of=1, suffix=None))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fields", [{"guided_json": {}}, {"structured_outputs": {"regex": "a"}}, {"guided_choice": []}])
def test_vllms_words_for_constrained_output_are_refused_instead_of_ignored(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOperation, match=r"llama\.cpp") as raised:
        adapter().request(asked(path, stream=True, **fields))
    assert raised.value.param in fields


async def test_a_stop_sequence_of_messages_is_the_reason_of_their_end() -> None:
    def end(reason: str, sequence: str | None) -> bytes:
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        fields = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 3}}
        return b"event: message_delta\ndata: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"

    request = asked("/v1/messages", messages=[], max_tokens=9, stream=True)
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert await answered(request, stream(end("end_turn", "x"), stop)) == end("stop_sequence", "x") + stop
    assert await answered(request, stream(end("end_turn", None), stop)) == end("end_turn", None) + stop


async def test_a_broken_stream_gets_no_usage_and_no_end() -> None:
    data = events({"choices": [{"index": 0, "text": "a"}]}, {"error": {"message": "x"}})
    assert b"[DONE]" not in await answered(asked(COMPLETIONS, stream=True), stream(*data, b"data: {"))


async def test_a_stream_that_cannot_be_read_is_a_protocol_error() -> None:
    for data in (b'data: {"usage":{ oops\n\n', b"x" * (17 * 1024 * 1024)):
        with pytest.raises(UpstreamProtocolError):
            await answered(asked(COMPLETIONS, stream=True), stream(data))


async def test_closing_a_bridged_body_closes_the_engines() -> None:
    for path, is_stream in ((COMPLETIONS, True), (CHAT, False), ("/tokenize", False)):
        response = stream()
        pieces = response.body
        await adapter().response(asked(path, prompt="", stream=is_stream), response).body.aclose()
        assert pieces.is_closed  # type: ignore[attr-defined]  # it is ours


async def test_a_whole_answer_is_collected_as_json() -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    data = events(
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
        "[DONE]",
    )
    request = adapter().request(asked(CHAT, messages=[]))
    response = adapter().response(request, stream(*data))
    assert dict(response.headers)[b"content-type"] == b"application/json"
    answer = json.loads(await read(response.body))
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hi"}
    assert answer["usage"] == usage


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
    data = events(delta(content), delta(finish_reason="stop"), "[DONE]")
    (choice,) = json.loads(await answered(request, stream(*data)))["choices"]
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


def test_a_tool_of_a_chat_that_is_no_function_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="'custom'") as raised:
        adapter().request(asked(CHAT, tools=[*TOOLS, {"type": "custom", "custom": {"name": "f"}}]))
    assert raised.value.param == f"tools[{len(TOOLS)}]"
    for judged_by_the_engine in (None, "x", TOOLS):
        adapter().request(asked(CHAT, tools=judged_by_the_engine))


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        ({}, 100),
        ({"max_tokens": None}, 100),
        ({"max_tokens": 500}, 100),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "n_predict": 9}, 9),
        ({"n_predict": -1}, 100),
    ],
)
def test_an_answer_is_held_to_the_cap_told_or_not(told: dict[str, Any], limit: int) -> None:
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in told.items()}
    held = adapter().limited({"seed": msgspec.Raw(b"1"), **fields}, CHAT)
    assert {name: int(value) for name, value in held.items()} == {"seed": 1, "max_tokens": limit}
