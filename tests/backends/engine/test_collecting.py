"""A stream becomes the whole answer that it is the stream of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.engine import collecting
from backends.errors import UpstreamError


def events(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"event: x\ndata: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunk(index: int, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def test_choices_come_together_in_order_with_their_logprobs() -> None:
    token = {"token": "a", "logprob": -1.0}
    with_logprobs = chunk(1, content="b")
    with_logprobs["choices"][0]["logprobs"] = {"content": [token]}
    stream = events(chunk(1, content="a"), chunk(0, content="x"), with_logprobs, chunk(0, "stop"), chunk(1, "length"))
    answer = json.loads(collecting.chat(stream + b"data: [DONE]\n\n"))
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["x", "ab"]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "length"]
    assert answer["choices"][1]["logprobs"] == {"content": [token]}
    assert (answer["id"], answer["object"], answer["model"]) == ("c", "chat.completion", "m")


def test_tool_calls_come_together_from_their_pieces() -> None:
    def part(index: int, **fields: Any) -> dict[str, Any]:
        return chunk(0, tool_calls=[{"index": index, **fields}])

    stream = events(
        part(0, id="1", type="function", function={"name": "f"}),
        part(0, function={"arguments": '{"a"'}),
        part(0, function={"arguments": ":1}"}),
        part(1, id="2", type="function", function={"name": "g", "arguments": "{}"}),
        chunk(0, "tool_calls", reasoning_content="hm"),
    )
    message = json.loads(collecting.chat(stream))["choices"][0]["message"]
    assert [(call["id"], call["function"]) for call in message["tool_calls"]] == [
        ("1", {"name": "f", "arguments": '{"a":1}'}),
        ("2", {"name": "g", "arguments": "{}"}),
    ]
    assert message["reasoning_content"] == "hm"


def test_a_completion_joins_text_and_logprobs() -> None:
    def text(said: str, finish_reason: str | None = None) -> dict[str, Any]:
        logprobs = {"tokens": [said], "token_logprobs": [-1.0]} if said else None
        return {"choices": [{"index": 0, "text": said, "logprobs": logprobs, "finish_reason": finish_reason}]}

    (choice,) = json.loads(collecting.completion(events(text("a"), text("b"), text("", "stop"))))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")
    assert choice["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0]}


def test_a_response_is_what_its_last_event_carries() -> None:
    stream = events(
        {"type": "response.created", "response": {}}, {"type": "response.completed", "response": {"id": "r"}}
    )
    assert json.loads(collecting.response(stream)) == {"id": "r"}


def test_a_message_joins_its_blocks() -> None:
    start: dict[str, Any] = {
        "id": "1",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 0},
    }
    stream = events(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "ping"},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    message = json.loads(collecting.message(stream))
    assert [block.get("text", block.get("input")) for block in message["content"]] == ["Hi!", {"a": 1}]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {"input_tokens": 3, "output_tokens": 5}


@pytest.mark.parametrize("collect", [collecting.chat, collecting.completion, collecting.response, collecting.message])
def test_what_broke_is_no_answer(collect: Any) -> None:
    with pytest.raises(ValueError, match="ended before"):
        collect(b"")
    with pytest.raises(UpstreamError, match="out of memory"):
        collect(events({"error": {"message": "out of memory"}}))
    with pytest.raises(UpstreamError, match="worker died"):
        collect(events({"error": "worker died"}))
