"""Chat and text completions: what is said, how it is counted, how it lies on the wire."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from tests.backends.simulator.asking import chat, events, post, request, said
from tests.engines import EchoEngine

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}


async def stream(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[Any]:
    answer = await client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(answer.text)


async def test_the_words_of_the_last_user_message_are_the_tokens(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, chat("hello  big\nworld "))
    assert said(chunks) == ["hello", "  big", "\nworld "]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1] == "[DONE]"


async def test_usage_is_the_same_streamed_or_not(client: httpx.AsyncClient) -> None:
    whole = await post(client, "/v1/chat/completions", chat("one two three", n=2))
    chunks = await stream(client, chat("one two three", n=2, stream_options={"include_usage": True}))
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 6
    counted = await post(client, "/tokenize", chat("one two three"))
    assert counted["count"] == whole["usage"]["prompt_tokens"]


async def test_no_chunk_has_usage_unless_asked(client: httpx.AsyncClient) -> None:
    assert all("usage" not in chunk for chunk in (await stream(client, chat()))[:-1])
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, chat(stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]] == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_ends_with_length(client: httpx.AsyncClient, field: str) -> None:
    body = chat("a b c d", **{field: 2})
    choice = (await post(client, "/v1/chat/completions", body))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a b", "length")
    last = (await stream(client, body))[-2]["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({"content": " b"}, "length")


async def test_a_stop_string_ends_the_text_before_it_even_across_tokens(client: httpx.AsyncClient) -> None:
    body = chat("one two three four", stop=["o th", "four"])
    whole = await post(client, "/v1/chat/completions", body)
    choice = whole["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("one tw", "stop", "o th")
    assert whole["usage"]["completion_tokens"] == 3
    assert "".join(said(await stream(client, body))) == "one tw"


async def test_length_can_be_chosen_beyond_the_message(client: httpx.AsyncClient) -> None:
    assert said(await stream(client, chat("a b", ignore_eos=True, max_tokens=5))) == ["a", " b", " a", " b", " a"]
    assert said(await stream(client, chat("a b", echo={"tokens": 3}))) == ["a", " b", " a"]
    assert said(await stream(client, chat("a b", min_tokens=3))) == ["a", " b", " a"]
    assert said(await stream(client, chat("a b c", echo={"tokens": 2}))) == ["a", " b"]


async def test_an_empty_message_gives_an_empty_answer(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, chat(""))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, "stop"]


async def test_n_gives_as_many_choices(client: httpx.AsyncClient) -> None:
    whole = await post(client, "/v1/chat/completions", chat(n=3))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    chunks = await stream(client, chat(n=2))
    for index in range(2):
        own = [chunk for chunk in chunks[:-1] if chunk["choices"][0]["index"] == index]
        assert said(own) == ["hello", " world"]
        assert own[-1]["choices"][0]["finish_reason"] == "stop"


async def test_logprobs_stand_beside_each_token(client: httpx.AsyncClient) -> None:
    body = chat(logprobs=True, top_logprobs=2)
    content = (await post(client, "/v1/chat/completions", body))["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["hello", " world"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in content)
    chunks = await stream(client, body)
    assert [chunk["choices"][0]["logprobs"]["content"][0] for chunk in chunks[1:3]] == content


async def test_a_named_tool_is_called_in_several_chunks(client: httpx.AsyncClient) -> None:
    body = chat('call tool weather {"city": "Paris"}', tools=[WEATHER])
    choice = (await post(client, "/v1/chat/completions", body))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    function = choice["message"]["tool_calls"][0]["function"]
    assert function == {"name": "weather", "arguments": '{"city": "Paris"}'}
    chunks = await stream(client, body)
    calls = [call for chunk in chunks[1:-2] for call in chunk["choices"][0]["delta"]["tool_calls"]]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert calls[0]["id"]
    assert len(calls) > 3
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Paris"}'
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_forced_tool_gets_the_least_valid_arguments(client: httpx.AsyncClient) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        body = chat("what will it be?", tools=[WEATHER], tool_choice=choice)
        message = (await post(client, "/v1/chat/completions", body))["choices"][0]["message"]
        assert message["tool_calls"][0]["function"]["arguments"] == '{"city": "x", "days": 1}'
    body = chat("call tool weather", tools=[WEATHER], tool_choice="none")
    assert (await post(client, "/v1/chat/completions", body))["choices"][0]["message"]["tool_calls"] == []


async def test_a_tools_result_is_what_is_echoed_next(client: httpx.AsyncClient) -> None:
    body = chat("call tool weather {}", tools=[WEATHER])
    body["messages"].append({"role": "tool", "tool_call_id": "1", "content": "sunny all day"})
    choice = (await post(client, "/v1/chat/completions", body))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("sunny all day", "stop")


async def test_structured_output_is_a_least_valid_instance(client: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 7}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    whole = await post(client, "/v1/chat/completions", chat(response_format=form))
    assert whole["choices"][0]["message"]["content"] == '{"age": 7}'
    whole = await post(client, "/v1/chat/completions", chat('{"a": 1}', response_format={"type": "json_object"}))
    assert whole["choices"][0]["message"]["content"] == '{"a": 1}'


async def test_text_completions_answer_each_prompt(client: httpx.AsyncClient) -> None:
    body = {"model": "echo", "prompt": ["a b", "c"], "logprobs": 1, "echo": True}
    whole = await post(client, "/v1/completions", body)
    assert [choice["text"] for choice in whole["choices"]] == ["a ba b", "cc"]
    assert whole["choices"][0]["logprobs"]["tokens"] == ["a", " b"]
    assert whole["choices"][0]["logprobs"]["text_offset"] == [3, 4]
    assert whole["usage"]["total_tokens"] == 6
    chunks = await stream(client, {**body, "stream_options": {"include_usage": True}}, "/v1/completions")
    texts = ["".join(c["choices"][0]["text"] for c in chunks[:-2] if c["choices"][0]["index"] == i) for i in range(2)]
    assert texts == ["a ba b", "cc"]
    assert chunks[-2]["usage"] == whole["usage"]


async def test_text_completions_stop_at_sixteen_tokens_unless_told(client: httpx.AsyncClient) -> None:
    whole = await post(client, "/v1/completions", {"model": "echo", "prompt": "w " * 40})
    assert whole["usage"]["completion_tokens"] == 16
    assert whole["choices"][0]["finish_reason"] == "length"


async def test_token_ids_are_a_prompt(client: httpx.AsyncClient) -> None:
    tokens = (await post(client, "/tokenize", {"model": "echo", "prompt": "good morning"}))["tokens"]
    whole = await post(client, "/v1/completions", {"model": "echo", "prompt": tokens})
    assert whole["choices"][0]["text"] == "good morning"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (chat() | {"model": "none"}, 404, "model"),
        ({"model": "echo"}, 400, None),
        ({"model": "echo", "messages": []}, 400, "messages"),
        (chat(max_tokens=0), 400, "max_tokens"),
        (chat(max_tokens=10**6), 400, "max_tokens"),
        (chat("w " * 40000), 400, "input_tokens"),
        (chat(n=0), 400, "n"),
        (chat(temperature=-1), 400, "temperature"),
        (chat(top_p=2), 400, "top_p"),
        (chat(top_logprobs=2), 400, "top_logprobs"),
        (chat(stream_options={"include_usage": True}), 400, "stream_options"),
        (chat(tools=[WEATHER], tool_choice={"function": {"name": "other"}}), 400, "tool_choice"),
        (chat(response_format={"type": "json_schema"}), 400, "type"),
        (chat(echo={"fault": "unheard-of"}), 400, None),
        (chat(echo={"speed": 3}), 400, None),
    ],
)
async def test_what_a_server_refuses_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == status
    assert error["param"] == param
    assert error["message"]
    assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")


async def test_a_body_that_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    for content in (b"{", b"[]", b"", b"\xff"):
        answer = await client.post("/v1/chat/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)


async def test_each_event_is_one_http_chunk_under_the_head_of_a_server(engine: EchoEngine) -> None:
    bodies = []
    async with engine.connect() as (reader, writer):
        writer.write(request("/v1/chat/completions", chat(stream=True), "x-request-id: mine"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        while size := int(await reader.readline(), 16):
            bodies.append(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
    assert head[0] == "HTTP/1.1 200 OK"
    assert [line.split(":")[0] for line in head[1:5]] == ["date", "server", "content-type", "transfer-encoding"]
    assert all(re.fullmatch(rb"data: [^\n]+\n\n", body) for body in bodies)
    assert len(bodies) == 5
    assert b'"chatcmpl-mine"' in bodies[0]


async def test_requests_sent_ahead_are_answered_in_order(engine: EchoEngine) -> None:
    async with engine.connect() as (reader, writer):
        for word in ("first", "second"):
            writer.write(request("/v1/chat/completions", chat(word, echo={"ttft_ms": 20})))
        for word in ("first", "second"):
            length = re.search(rb"content-length: (\d+)", await reader.readuntil(b"\r\n\r\n"))
            assert length is not None
            assert f'"content":"{word}"'.encode() in await reader.readexactly(int(length[1]))


async def test_a_request_to_close_and_a_request_to_go_on_are_honoured(engine: EchoEngine) -> None:
    async with engine.connect() as (reader, writer):
        writer.write(request("/v1/chat/completions", chat(), "expect: 100-continue", "connection: close"))
        answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in answer


async def test_bytes_that_are_no_http_are_refused(engine: EchoEngine) -> None:
    async with engine.connect() as (reader, writer):
        writer.write(b"nonsense\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
