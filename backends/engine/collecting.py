"""One whole answer from the stream of it, for engines that notice a client's departure only while they stream.

Each function takes all bytes of an event stream and returns the JSON of the answer. They raise `UpstreamError` for
an error that the engine reported in its stream, and `ValueError` for a stream that ended too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends.errors import UpstreamError

_Object = dict[str, Any]
_decode = msgspec.json.Decoder(_Object).decode

_TEXTS = ("content", "reasoning_content", "refusal")
# Anthropic's deltas: their type, and the field that carries them.
_BLOCK_DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


def chat(stream: bytes) -> bytes:
    """A `chat.completion` of any number of choices."""
    choices: dict[int, _Object] = {}
    head: _Object = {}
    usage = None
    for chunk in _events(stream):
        head, usage = head or chunk, chunk.get("usage") or usage
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], _new_choice(part["index"]))
            delta, message = part["delta"], choice["message"]
            for key in _TEXTS:
                if delta.get(key):
                    message[key] = (message.get(key) or "") + delta[key]
            for call in delta.get("tool_calls") or ():
                _merge_call(message.setdefault("tool_calls", []), call)
            if part.get("logprobs"):
                choice["logprobs"] = choice["logprobs"] or {"content": []}
                choice["logprobs"]["content"] += part["logprobs"]["content"]
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    return _answer(head, "chat.completion", choices, usage)


def completion(stream: bytes) -> bytes:
    """A `text_completion` of any number of choices; logprobs in the form of that endpoint."""
    choices: dict[int, _Object] = {}
    head: _Object = {}
    usage = None
    for chunk in _events(stream):
        head, usage = head or chunk, chunk.get("usage") or usage
        for part in chunk["choices"]:
            new = {"text": "", "index": part["index"], "logprobs": None, "finish_reason": None}
            choice = choices.setdefault(part["index"], new)
            choice["text"] += part["text"]
            if part.get("logprobs"):
                choice["logprobs"] = choice["logprobs"] or {key: [] for key in part["logprobs"]}
                for key, values in part["logprobs"].items():
                    choice["logprobs"][key] += values
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    return _answer(head, "text_completion", choices, usage)


def response(stream: bytes) -> bytes:
    """The response object that the last event of a Responses stream carries."""
    for event in _events(stream):
        if event["type"] in {"response.completed", "response.incomplete", "response.failed"}:
            return msgspec.json.encode(event["response"])
    raise ValueError("it ended before response.completed")


def message(stream: bytes) -> bytes:
    """A message of Anthropic's API."""
    whole: _Object = {}
    for event in _events(stream):
        match event["type"]:
            case "message_start":
                whole = event["message"]
            case "content_block_start":
                whole["content"].append(event["content_block"])
            case "content_block_delta":
                delta, block = event["delta"], whole["content"][event["index"]]
                key = _BLOCK_DELTAS[delta["type"]]
                block[key] = block.get(key, "") + delta[key]
            case "content_block_stop":
                block = whole["content"][event["index"]]
                if "partial_json" in block:
                    block["input"] = _decode(block.pop("partial_json") or "{}")
            case "message_delta":
                whole |= event["delta"]
                whole["usage"] |= event["usage"]
            case "message_stop":
                return msgspec.json.encode(whole)
            case _:
                pass
    raise ValueError("it ended before message_stop")


def _events(stream: bytes) -> Iterator[_Object]:
    for event in stream.split(b"\n\n"):
        line = event[event.find(b"data: ") + 6 :] if b"data: " in event else b""
        if not line or line == b"[DONE]":
            continue
        fields = _decode(line)
        if error := fields.get("error"):
            raise UpstreamError(f"The engine failed: {error.get('message') if isinstance(error, dict) else error}")
        yield fields


def _new_choice(index: int) -> _Object:
    message = {"role": "assistant", "content": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _merge_call(calls: list[_Object], part: _Object) -> None:
    """A tool call comes whole, or its id and name first and its arguments piece by piece, under one index."""
    function = part.get("function") or {}
    if part["index"] == len(calls):
        calls.append({"id": part.get("id"), "type": "function", "function": {"name": "", "arguments": ""}})
    whole = calls[part["index"]]["function"]
    whole["name"] += function.get("name") or ""
    whole["arguments"] += function.get("arguments") or ""


def _answer(head: _Object, kind: str, choices: dict[int, _Object], usage: _Object | None) -> bytes:
    if not choices or any(choice["finish_reason"] is None for choice in choices.values()):
        raise ValueError("it ended before every choice had a finish reason")
    kept = {key: head[key] for key in ("id", "created", "model", "system_fingerprint") if key in head}
    ordered = [choices[index] for index in sorted(choices)]
    return msgspec.json.encode({**kept, "object": kind, "choices": ordered, "usage": usage})
