"""What `transformers serve` says differently, bridged to what OpenAI says: once a request."""

from __future__ import annotations

import msgspec

from backends.engine import collecting
from backends.engine.continuation import Fields, continued
from backends.engine.parameters import CONSTRAINTS, Parameters, changed, tell_dropped
from backends.engine.rewriting import Rewritten, UsageAtTheEnd, as_json
from backends.model import OpenAIRequest, OpenAIResponse

_COLLECT = {"/v1/chat/completions": collecting.chat, "/v1/completions": collecting.completion}

PARAMETERS = Parameters(
    "transformers",
    # Ignored by the engine.
    refused={
        "n": (b"1",),
        "logprobs": (b"false",),
        "top_logprobs": (b"0",),
        "stop": (b"[]",),
        "echo": (b"false",),
        "best_of": (b"1",),
        "suffix": (b'""',),
        "response_format": (b'{"type":"text"}',),
        "tool_choice": (b'"auto"',),
        **dict.fromkeys(CONSTRAINTS, ()),
    },
    # Taken from the first request for all that follow, in continuous batching (transformers 5.23).
    dropped=frozenset({"temperature", "top_p", "seed", "frequency_penalty", "logit_bias", "generation_config"}),
)

_decode_fields = msgspec.json.Decoder(Fields).decode


class Adapter:
    """Every request streams upstream: only a stream's end of file stops the engine when a client leaves."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if request.path not in _COLLECT:
            return request
        fields = _decode_fields(request.body)
        dropped = PARAMETERS.apply(fields, request.model)
        fields["stream"] = msgspec.Raw(b"true")
        return changed(request, fields, dropped, PARAMETERS.engine)

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        if request.path not in _COLLECT:
            return response
        tell_dropped(request, response)
        if response.status >= 400:
            return response
        response.body = Rewritten(response.body, _Chunks(request.model))
        return response if request.stream else as_json(response, _COLLECT[request.path])

    def limited(self, fields: Fields, path: str) -> Fields:  # noqa: ARG002  # every adapter's
        return fields  # the engine's own default cannot be known

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
