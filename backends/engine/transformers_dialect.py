"""What `transformers serve` says differently, bridged to what OpenAI says: once a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from backends.engine.rewriting import UsageAtTheEnd, Whole
from backends.errors import UnsupportedOperation
from backends.model import OpenAIRequest, OpenAIResponse

_CHAT = "/v1/chat/completions"
_GENERATION = frozenset({_CHAT, "/v1/completions"})
_JSON = (b"content-type", b"application/json")

# Taken from the first request for all that follow, in continuous batching (transformers 5.23): left to the model.
_SAMPLING = ("temperature", "top_p", "seed", "frequency_penalty", "logit_bias", "generation_config")
# Ignored by the engine: an answer would not be what was asked for, unless the value asks for nothing.
_REFUSED = {
    "n": ("1",),
    "logprobs": ("false",),
    "top_logprobs": ("0",),
    "stop": ("[]",),
    "echo": ("false",),
    "best_of": ("1",),
    "suffix": ('""',),
    "response_format": ('{"type":"text"}',),
    "tool_choice": ('"auto"',),
}

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


class Adapter:
    """Every request streams upstream: only a stream's end of file stops the engine when a client leaves."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if request.path not in _GENERATION:
            return request
        fields = _decode_fields(request.body)
        for key, neutral in _REFUSED.items():
            value = bytes(fields.pop(key, msgspec.Raw(b"null"))).decode()
            if value != "null" and "".join(value.split()) not in neutral:
                raise UnsupportedOperation(
                    f"The model {request.model!r} is served by transformers, which has no {key!r}.", param=key
                )
        for key in _SAMPLING:
            fields.pop(key, None)
        fields["stream"] = msgspec.Raw(b"true")
        return replace(request, body=msgspec.json.encode(fields))

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        if request.path not in _GENERATION or response.status >= 400:
            return response
        if request.stream:
            response.body = UsageAtTheEnd(response.body, adds_done=True)
            return response
        headers = [(name, value) for name, value in response.headers if name != b"content-type"]
        collect = _chat if request.path == _CHAT else _completion
        return OpenAIResponse(response.status, [*headers, _JSON], Whole(response.body, collect))


def _chat(stream: bytes) -> bytes:
    """One `chat.completion` from its chunks. Raises `ValueError` when they do not end with a finish reason."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: list[dict[str, Any]] = []
    chunks = _chunks(stream)
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        for key in ("content", "reasoning_content"):
            if delta.get(key):
                message[key] = (message.get(key) or "") + delta[key]
        calls += ({key: call[key] for key in call if key != "index"} for call in delta.get("tool_calls") or [])
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(chunks[-1])}
    return _answer(chunks[-1], "chat.completion", choice)


def _completion(stream: bytes) -> bytes:
    """One `text_completion` from its chunks; raises as `_chat`."""
    chunks = _chunks(stream)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": _finish_reason(chunks[-1])}
    return _answer(chunks[-1], "text_completion", choice)


def _chunks(stream: bytes) -> list[dict[str, Any]]:
    events = [event for event in stream.split(b"\n\n") if event.startswith(b"data: ")]
    for event in events:
        if event.startswith(b'data: {"error"'):
            raise ValueError(event.removeprefix(b"data: ").decode(errors="replace"))
    return [_decode_any(event.removeprefix(b"data: ")) for event in events]


def _finish_reason(last: dict[str, Any]) -> str:
    reason = last["choices"][0].get("finish_reason")
    if not isinstance(reason, str):
        raise ValueError("it ended before its last chunk")  # noqa: TRY004  # the value is missing, not of a wrong type
    return reason


def _answer(last: dict[str, Any], kind: str, choice: dict[str, Any]) -> bytes:
    answer = {"id": last["id"], "object": kind, "created": last["created"], "model": last["model"]}
    return msgspec.json.encode(answer | {"choices": [choice], "usage": last["usage"]})
