"""What vLLM says differently, bridged to what OpenAI says: once a request.

It has no table of parameters: it takes all of OpenAI's, and ignores what it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.engine.continuation import Fields, by_flag, continued, limited
from backends.engine.rewriting import BORDER, Rewritten
from backends.model import OpenAIRequest, OpenAIResponse

_COMPLETED = b"event: response.completed\n"
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Adapter:
    """The bridge of one model; all but the streams of Responses passes untouched."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        return request

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        if request.stream and request.path == "/v1/responses" and response.status < 400:
            response.body = Rewritten(response.body, _Responses())
        return response

    def limited(self, fields: Fields, path: str) -> Fields:
        return limited(fields, path)

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        return continued(fields, path, text, chat=by_flag)


class _Responses:
    """A response that its limit cut ends with `response.incomplete`: vLLM says `response.completed` in any case."""

    def convert(self, events: bytes) -> bytes:
        start = events.find(_COMPLETED)
        if start < 0:
            return events
        end = events.index(BORDER, start) + len(BORDER)
        fields = _decode(events[start + len(_COMPLETED) : end].removeprefix(b"data: "))
        status = fields["response"]["status"]
        if status not in {"incomplete", "failed"}:
            return events
        fields["type"] = f"response.{status}"
        last = b"event: %b\ndata: %b\n\n" % (fields["type"].encode(), msgspec.json.encode(fields))
        return events[:start] + last + events[end:]

    def end(self) -> bytes:
        return b""
