"""What llama.cpp's server says differently, bridged to what OpenAI and vLLM say: once a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from backends.engine import collecting, llamacpp_responses
from backends.engine.continuation import Fields, by_prefill, continued
from backends.engine.llamacpp_tools import MARK, CallEvents, check_kinds, demand, demands_a_tool
from backends.engine.parameters import CONSTRAINTS, Parameters
from backends.engine.rewriting import BORDER, Converter, Rewritten, UsageAtTheEnd, Whole, WithoutPreface, as_json
from backends.errors import InvalidRequest, UnsupportedOperation
from backends.model import OpenAIRequest, OpenAIResponse

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_RESPONSES = "/v1/responses"
_MESSAGES = "/v1/messages"
_COLLECT = {
    _CHAT: collecting.chat,
    _COMPLETIONS: collecting.completion,
    _RESPONSES: collecting.response,
    _MESSAGES: collecting.message,
}
# What it ignores; all else it takes, or defaults as its server's arguments say.
_UNKNOWN: dict[str, tuple[bytes, ...]] = dict.fromkeys(CONSTRAINTS, ())
PARAMETERS = {
    _CHAT: Parameters("llama.cpp", refused=_UNKNOWN),
    _COMPLETIONS: Parameters(
        "llama.cpp", refused=_UNKNOWN | {"echo": (b"false",), "best_of": (b"1",), "suffix": (b'""',)}
    ),
}
# In falling order of what llama.cpp heeds when several are there.
_CAPPED = ("n_predict", "max_completion_tokens", "max_tokens", "max_output_tokens")

_TRUE = msgspec.Raw(b"true")
# Asks for an event after each batch of the prompt, for while llama.cpp writes nothing it does not see its client leave.
# Messages lose it. Unambiguous on the way back: inside a JSON string the quotes would be escaped.
_RETURN_PROGRESS = "return_progress"
_SPLICED_PROGRESS = b'"return_progress":true,'
_PROGRESS = b'"prompt_progress":{'
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')

_Fields = dict[str, msgspec.Raw]
_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_decode_text = msgspec.json.Decoder(str).decode


class _Generation(msgspec.Struct):
    """The fields of a request that decide what has to be bridged, undecoded: the engine judges their types."""

    n: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    echo: msgspec.Raw = msgspec.Raw(b"")
    best_of: msgspec.Raw = msgspec.Raw(b"")
    suffix: msgspec.Raw = msgspec.Raw(b"")
    structured_outputs: msgspec.Raw = msgspec.Raw(b"")
    guided_json: msgspec.Raw = msgspec.Raw(b"")
    guided_regex: msgspec.Raw = msgspec.Raw(b"")
    guided_choice: msgspec.Raw = msgspec.Raw(b"")
    guided_grammar: msgspec.Raw = msgspec.Raw(b"")
    logprobs: msgspec.Raw = msgspec.Raw(b"")
    n_predict: msgspec.Raw = msgspec.Raw(b"")
    max_completion_tokens: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: msgspec.Raw = msgspec.Raw(b"")
    max_output_tokens: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    tool_choice: msgspec.Raw = msgspec.Raw(b"")
    tritium_demand: msgspec.Raw = msgspec.Raw(b"")


class _Tokenize(msgspec.Struct):
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


_decode_generation = msgspec.json.Decoder(_Generation).decode
_decode_tokenize = msgspec.json.Decoder(_Tokenize).decode


class Adapter:
    """The bridge of one model. `max_tokens` caps every completion, `context_length` is told by `/tokenize`."""

    def __init__(self, *, max_tokens: int, context_length: int) -> None:
        self._max_tokens = max_tokens
        self._context_length = context_length

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if request.path in _COLLECT and request.body:
            return self._generation(request)
        if request.path == "/tokenize":
            try:
                asked = _decode_tokenize(request.body)
            except msgspec.ValidationError as error:
                raise InvalidRequest(f"/tokenize takes a 'prompt' or 'messages': {error}.", param="prompt") from error
            fields = {
                "content": asked.prompt,
                "add_special": asked.add_special_tokens,
                "with_pieces": bool(asked.return_token_strs),
            }
            return replace(request, body=msgspec.json.encode(fields))
        return request

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        if response.status >= 400:
            return response
        if request.path in _COLLECT and request.body:
            return self._generated(request, response)
        if request.path == "/tokenize":
            response.body = Whole(response.body, self._tokens)
        elif request.path == "/detokenize":
            response.body = Whole(response.body, _prompt)
        return response

    def limited(self, fields: Fields, path: str) -> Fields:  # noqa: ARG002  # every adapter's
        told = [fields[name] for name in _CAPPED if bytes(fields.get(name, b"null")) != b"null"]
        limit = msgspec.Raw(b"%d" % self._max_tokens) if not told or self._exceeds(told[0]) else told[0]
        return {name: value for name, value in fields.items() if name not in _CAPPED} | {"max_tokens": limit}

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        return continued(fields, path, text, chat=by_prefill)

    def _generation(self, request: OpenAIRequest) -> OpenAIRequest:
        """The same bytes and one field, unless it asks for a whole answer, more tokens than the cap or a tool call.

        llama.cpp takes its own `n_predict` for a default only, so the cap must be written into the request. While
        it does not stream it looks for its client after a second without any result of any request, which under
        load is never: so it always streams. That tells the tokens of each choice, too; else it counts the first.
        """
        asked = _decode_generation(request.body)
        if (parameters := PARAMETERS.get(request.path)) is not None:
            parameters.refuse({name: getattr(asked, name) for name in parameters.refused}, request.model)
        changes: _Fields = {}
        for name in _CAPPED:
            if self._exceeds(getattr(asked, name)):
                changes[name] = msgspec.Raw(b"%d" % self._max_tokens)
        if not request.stream:
            changes |= {"stream": _TRUE, "stream_options": _WITH_USAGE}
        if request.path == _CHAT:
            if asked.tools:
                check_kinds(asked.tools)
            changes |= demand(asked.tools, asked.tool_choice)
        elif request.path == _RESPONSES:
            changes |= llamacpp_responses.changes(_decode_fields(request.body))
        elif request.path == _MESSAGES and demands_a_tool(asked.tool_choice):
            raise UnsupportedOperation(
                f"The model {request.model!r} in llama.cpp cannot be held to a tool in messages; it can in chat.",
                param="tool_choice",
            )
        if not changes and not asked.tritium_demand:
            if request.path == _MESSAGES:
                return request
            start = request.body.index(b"{") + 1
            return replace(request, body=request.body[:start] + _SPLICED_PROGRESS + request.body[start:])
        changes[_RETURN_PROGRESS] = _TRUE
        fields = _decode_fields(request.body)
        fields.pop(MARK, None)
        return replace(request, body=msgspec.json.encode(fields | changes))

    def _exceeds(self, raw: msgspec.Raw) -> bool:
        value = bytes(raw)
        if not value or value[0] not in b"-0123456789":
            return False
        try:
            return not 0 <= float(value) <= self._max_tokens
        except ValueError:
            return True

    def _generated(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        asked = _decode_generation(request.body)
        # Several prompts are read while the answers to others come; one is read before its answer.
        several = _count(asked.n) > 1 or bytes(asked.prompt)[:1] == b"["
        if request.path in {_CHAT, _COMPLETIONS} and not several:
            response.body = WithoutPreface(response.body, _PROGRESS)
        if (converter := self._converter(request, asked, several=several)) is not None:
            response.body = Rewritten(response.body, converter)
        return response if request.stream else as_json(response, _COLLECT[request.path])

    def _converter(self, request: OpenAIRequest, asked: _Generation, *, several: bool) -> Converter | None:
        """What the events of an answer need; None, so that they pass untouched, for chat that asks for nothing odd."""
        if request.path == _RESPONSES:
            limits = {"max_tokens": self._max_tokens, "context_length": self._context_length}
            return llamacpp_responses.ResponseEvents(request.body, **limits)
        if request.path == _MESSAGES:
            return _Messages()
        each = None
        if asked.tritium_demand:
            each = CallEvents(_decode_text(asked.tritium_demand)).event
        elif request.path == _COMPLETIONS and _given(asked.logprobs):
            each = _LegacyLogprobs().event
        if several:
            return UsageAtTheEnd(n=_count(asked.n), each=_Several(each).event)
        return UsageAtTheEnd(each=each) if each is not None or request.path == _COMPLETIONS else None

    def _tokens(self, body: bytes) -> bytes:
        tokens = _decode_any(body)["tokens"]
        pieces = None
        if tokens and isinstance(tokens[0], dict):
            pieces = [_piece(token["piece"]) for token in tokens]
            tokens = [token["id"] for token in tokens]
        return msgspec.json.encode(
            {"count": len(tokens), "max_model_len": self._context_length, "tokens": tokens, "token_strs": pieces}
        )


def _count(raw: msgspec.Raw) -> int:
    """A number of choices, 1 where the engine has to judge it."""
    return int(raw) if bytes(raw).isdigit() else 1


def _given(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in {b"", b"null", b"false"}


def _piece(piece: str | list[int]) -> str:
    """A token's text; llama.cpp gives bytes where they are not whole UTF-8."""
    return piece if isinstance(piece, str) else bytes(piece).decode(errors="replace")


def _prompt(body: bytes) -> bytes:
    return msgspec.json.encode({"prompt": _decode_fields(body)["content"]})


class _Messages:
    """Events of Anthropic's Messages: a stop sequence that ended the answer is its reason, not "end_turn"."""

    def convert(self, events: bytes) -> bytes:
        if b'"stop_sequence":"' not in events:
            return events
        return b"".join(map(self._event, events.split(BORDER)[:-1]))

    def end(self) -> bytes:
        return b""

    def _event(self, event: bytes) -> bytes:
        head, mark, said = event.partition(b"data: ")
        if b'"type":"message_delta"' in said:
            fields = _decode_any(said)
            if fields["delta"].get("stop_sequence") is not None:
                fields["delta"]["stop_reason"] = "stop_sequence"
                said = msgspec.json.encode(fields)
        return head + mark + said + BORDER


class _Several:
    """Events of several prompts or choices, without those that say nothing of them; the rest goes to `each`."""

    def __init__(self, each: Callable[[bytes], bytes] | None) -> None:
        self._each = each

    def event(self, event: bytes) -> bytes:
        if _PROGRESS in event or event == b"data: null":  # with which answers to several prompts begin
            return b""
        return event if self._each is None else self._each(event)


class _LegacyLogprobs:
    """Logprobs of `/v1/completions`, which llama.cpp gives in the form of chat's; offsets count along the stream."""

    def __init__(self) -> None:
        self._offsets: dict[int, int] = {}

    def event(self, event: bytes) -> bytes:
        if b'"logprobs":{' not in event:
            return event
        chunk = _decode_any(event.removeprefix(b"data: "))
        self.convert(chunk["choices"])
        return b"data: " + msgspec.json.encode(chunk)

    def convert(self, choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            if not choice.get("logprobs"):
                continue
            content = choice["logprobs"]["content"]
            offset = self._offsets.get(choice["index"], 0)
            offsets = []
            for token in content:
                offsets.append(offset)
                offset += len(token["token"])
            self._offsets[choice["index"]] = offset
            choice["logprobs"] = {
                "text_offset": offsets,
                "token_logprobs": [token["logprob"] for token in content],
                "tokens": [token["token"] for token in content],
                "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in content],
            }
