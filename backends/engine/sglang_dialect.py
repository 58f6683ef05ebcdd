"""What SGLang says differently, bridged to what OpenAI and vLLM say: once a request, and only where it has the need."""

from __future__ import annotations

import msgspec

from backends.engine.continuation import Fields, by_flag, continued, limited
from backends.engine.parameters import CONSTRAINTS, Parameters, changed, take_constraint, tell_dropped
from backends.model import OpenAIRequest, OpenAIResponse

_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
# It ignores what it does not know, and defaults as OpenAI does: only vLLM's own words would go unheard.
PARAMETERS = Parameters(
    "SGLang",
    dropped=frozenset({"bad_words", "allowed_token_ids", "prompt_logprobs"}),
    renamed={"include_stop_str_in_output": "no_stop_trim"},
)
_WORDS = PARAMETERS.dropped | PARAMETERS.renamed.keys() | CONSTRAINTS
_FIELDS = {"regex": "regex", "grammar": "ebnf"}

_decode_fields = msgspec.json.Decoder(Fields).decode


class Adapter:
    """The bridge of one model; a request without vLLM's own words passes untouched, and so does every answer."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if request.path not in _PATHS:
            return request
        fields = _decode_fields(request.body)  # 2 us for 4 KB, less than a look for the words takes
        if _WORDS.isdisjoint(fields):
            return request
        constraint = take_constraint(fields)
        dropped = PARAMETERS.apply(fields, request.model)
        if constraint is not None:
            kind, value = constraint
            if kind == "json":
                form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
                fields["response_format"] = msgspec.Raw(msgspec.json.encode(form))
            else:
                fields[_FIELDS[kind]] = value
        return changed(request, fields, dropped, PARAMETERS.engine)

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        if request.path in _PATHS:
            tell_dropped(request, response)
        return response

    def limited(self, fields: Fields, path: str) -> Fields:
        return limited(fields, path)

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        return continued(fields, path, text, chat=by_flag)
