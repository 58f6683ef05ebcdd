"""What `transformers serve` says differently, bridged to what OpenAI says: once a request."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from backends.engine import collecting
from backends.engine.continuation import Fields, continued
from backends.engine.rewriting import Rewritten, UsageAtTheEnd, as_json
from backends.errors import UnsupportedOperation
from backends.model import OpenAIRequest, OpenAIResponse

_COLLECT = {"/v1/chat/completions": collecting.chat, "/v1/completions": collecting.completion}

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


class Adapter:
    """Every request streams upstream: only a stream's end of file stops the engine when a client leaves."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if request.path not in _COLLECT:
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
        if request.path not in _COLLECT or response.status >= 400:
            return response
        response.body = Rewritten(response.body, _Chunks(request.model))
        return response if request.stream else as_json(response, _COLLECT[request.path])

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        # Its chats always begin a new answer (5.23: `add_generation_prompt=True`, which no field of a request undoes).
        return continued(fields, path, text, chat=None)


class _Chunks:
    """Its chunks under the model's own name, to which the engine adds a revision, with usage where OpenAI has it."""

    def __init__(self, model: str) -> None:
        self._ours = b'"model":' + msgspec.json.encode(model)
        self._engines = b'"model":' + msgspec.json.encode(f"{model}@main")
        self._usage = UsageAtTheEnd(adds_done=True)

    def convert(self, events: bytes) -> bytes:
        return self._usage.convert(events.replace(self._engines, self._ours))

    def end(self) -> bytes:
        return self._usage.end()
