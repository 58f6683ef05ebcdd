"""What `trtllm-serve` takes differently, bridged to what OpenAI says: once a request."""

from __future__ import annotations

import re

import msgspec

from backends.engine.continuation import Fields, continued
from backends.engine.parameters import Parameters, changed, take_constraint, tell_dropped
from backends.engine.rewriting import Rewritten, Whole
from backends.engine.tensorrtllm_stream import Chunks, ended_by_its_call
from backends.model import OpenAIRequest, OpenAIResponse

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_ENGINE = "TensorRT-LLM"

# Its models are `extra="forbid"`. The fields of 1.2, and of its later versions those that are nobody else's.
_SAMPLING = frozenset(
    {
        *("model", "stream", "stream_options", "n", "best_of", "seed", "stop", "temperature", "top_p", "user"),
        *("frequency_penalty", "presence_penalty", "logit_bias", "max_tokens", "response_format", "lora_request"),
        *("use_beam_search", "top_k", "top_p_min", "min_p", "repetition_penalty", "length_penalty", "early_stopping"),
        *("stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens"),
        *("spaces_between_special_tokens", "truncate_prompt_tokens", "prompt_ignore_length", "add_special_tokens"),
        *("echo", "disaggregated_params", "conversation_params", "thinking_token_budget"),
    }
)
_RENAMED = {"max_completion_tokens": "max_tokens"}
PARAMETERS = {
    _CHAT: Parameters(
        _ENGINE,
        renamed=_RENAMED,
        known=_SAMPLING
        | {
            *("messages", "prompt_token_ids", "logprobs", "top_logprobs", "tools", "tool_choice", "reasoning_effort"),
            *("add_generation_prompt", "documents", "chat_template", "chat_template_kwargs", "media_io_kwargs"),
            *("mm_processor_kwargs", "cache_salt", "agent_hierarchy", "thinking"),
        },
    ),
    _COMPLETIONS: Parameters(
        _ENGINE,
        refused={"logprobs": (b"false",), "suffix": (b'""',)},
        renamed=_RENAMED,
        known=_SAMPLING | {"prompt", "return_context_logits", "detokenize"},
    ),
}
# Goes to the engine and is known again on the way back: a call is the reason that such an answer ends.
_DEMANDED = (b"x-tritium-tool-choice", b"required")
_TOOL = frozenset({"name", "description", "parameters"})
_STREAM_OPTIONS = frozenset({"include_usage", "continuous_usage_stats"})
# Its form of each constraint, with the field that carries it.
_FORMATS = {"json": (b'"json"', "schema"), "regex": (b'"regex"', "regex"), "grammar": (b'"ebnf"', "ebnf")}

# How many bytes of a request's JSON make a token at least; few texts have shorter ones. A prompt that is thought too
# long has a shorter answer by default, one that is thought too short is refused.
_BYTES_A_TOKEN = 2
_FEWEST_TOKENS = 16
# An image within the request is no text; most models make no more than so many tokens of one.
_ATTACHMENT = re.compile(rb'"data:[^"]*;base64,[^"]*"')
_TOKENS_AN_ATTACHMENT = 1024
# Of its sampling parameters.
_DEFAULT_TOKENS = msgspec.Raw(b"32")

_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_tools = msgspec.json.Decoder(list[Fields]).decode
_encode = msgspec.json.encode


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    """A `tool_choice` that names its tool."""

    function: _Named


_decode_choice = msgspec.json.Decoder(_Choice).decode
_decode_string = msgspec.json.Decoder(str).decode


class Adapter:
    """The bridge of one model.

    `context_length` is the tokens of prompt and answer together. Where it is known, a request without `max_tokens`
    gets what its prompt, as long as it may be, leaves of it; where it is not, the engine's own default holds.
    """

    def __init__(self, *, context_length: int | None) -> None:
        self._context_length = context_length

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        parameters = PARAMETERS.get(request.path)
        if parameters is None:
            return request
        fields = _decode_fields(request.body)
        constraint = take_constraint(fields)
        dropped = parameters.apply(fields, request.model)
        dropped += _plain_tools(fields)
        _translate_format(fields, constraint)
        _translate_sampling(fields)
        is_demanded = _force_tool(fields)
        _plain_stream_options(fields, is_stream=request.stream)
        if self._context_length is not None and bytes(fields.get("max_tokens", b"null")) == b"null":
            left = max(self._context_length - _most_tokens(request.body), _FEWEST_TOKENS)
            fields["max_tokens"] = msgspec.Raw(b"%d" % left)
        request = changed(request, fields, dropped, _ENGINE)
        if is_demanded:
            request.headers = [*request.headers, _DEMANDED]
        return request

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        if request.path not in PARAMETERS:
            return response
        tell_dropped(request, response)
        if response.status >= 400:
            return response
        is_demanded = _DEMANDED in request.headers
        if request.stream:
            fields = _decode_fields(request.body)
            n = bytes(fields.get("n", b"1"))
            names_tool = bytes(fields.get("tool_choice", b""))[:1] == b"{"
            chunks = Chunks(n=int(n) if n.isdigit() else 1, names_tool=names_tool, is_demanded=is_demanded)
            response.body = Rewritten(response.body, chunks)
        elif is_demanded:
            response.body = Whole(response.body, ended_by_its_call)
        return response

    def limited(self, fields: Fields, path: str) -> Fields:  # noqa: ARG002  # every adapter's
        is_told = any(bytes(fields.get(name, b"null")) != b"null" for name in ("max_tokens", *_RENAMED))
        return fields if is_told or self._context_length is not None else fields | {"max_tokens": _DEFAULT_TOKENS}

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        # Its chats have no `continue_final_message`, and `echo` repeats the message instead of going on with it.
        return continued(fields, path, text, chat=None)


def _most_tokens(body: bytes) -> int:
    size = len(body)
    tokens = 0
    if b";base64," in body:
        attachments = _ATTACHMENT.findall(body)
        size -= sum(map(len, attachments))
        tokens = len(attachments) * _TOKENS_AN_ATTACHMENT
    return tokens + size // _BYTES_A_TOKEN


def _translate_format(fields: Fields, constraint: tuple[str, msgspec.Raw] | None) -> None:
    """`response_format` in its form, or vLLM's words for one; what cannot be read stays for the engine to judge."""
    asked = fields.get("response_format")
    try:
        if asked is not None and bytes(asked) != b"null":
            format_ = _decode_fields(asked)
            match bytes(format_.get("type", b"")):
                case b'"text"':
                    del fields["response_format"]
                case b'"json_schema"':
                    constraint = "json", _decode_fields(format_["json_schema"])["schema"]
                case _:
                    return
    except (msgspec.DecodeError, KeyError):
        return
    if constraint is not None:
        kind, value = constraint
        type_, key = _FORMATS[kind]
        fields["response_format"] = msgspec.Raw(_encode({"type": msgspec.Raw(type_), key: value}))


def _plain_tools(fields: Fields) -> list[str]:
    """Tools with the keys that it takes; the names of others."""
    try:
        tools = _decode_tools(fields["tools"])
        functions = [_decode_fields(tool["function"]) for tool in tools]
    except (msgspec.DecodeError, KeyError):
        return []
    unknown = {key for function in functions for key in function.keys() - _TOOL}
    if not unknown:
        return []
    for tool, function in zip(tools, functions, strict=True):
        plain = {key: value for key, value in function.items() if key in _TOOL}
        tool["function"] = msgspec.Raw(_encode(plain))
    fields["tools"] = msgspec.Raw(_encode(tools))
    return [f"tools.function.{key}" for key in sorted(unknown)]


def _force_tool(fields: Fields) -> bool:
    """A tool that is demanded: by name, for `required` came later than 1.2, and with its parameters as the schema.

    It takes the whole answer for the arguments of a named tool, and holds it to nothing. Cases: nothing demanded;
    `required`, of one tool or of several, which is left to the engine; a name, with or without parameters. Whether
    the client had demanded it without a name.
    """
    choice = bytes(fields.get("tool_choice", b""))
    is_required = choice == b'"required"'
    if not is_required and choice[:1] != b"{":
        return False
    try:
        functions = [_decode_fields(tool["function"]) for tool in _decode_tools(fields["tools"])]
        if is_required:
            if len(functions) != 1:
                return False
            name = _decode_string(functions[0]["name"])
            fields["tool_choice"] = msgspec.Raw(_encode({"type": "function", "function": {"name": name}}))
        else:
            name = _decode_choice(choice).function.name
        schemas = [each.get("parameters") for each in functions if _decode_string(each["name"]) == name]
    except (msgspec.DecodeError, KeyError):
        return False
    if "response_format" not in fields and schemas and schemas[0] is not None and bytes(schemas[0]) != b"null":
        fields["response_format"] = msgspec.Raw(_encode({"type": "json", "schema": schemas[0]}))
    return is_required


def _translate_sampling(fields: Fields) -> None:
    """All tokens are `top_k: -1` elsewhere and 0 here. What is null was not asked for, and not all may be null here."""
    if bytes(fields.get("top_k", b"")) == b"-1":
        fields["top_k"] = msgspec.Raw(b"0")
    for name in [name for name, value in fields.items() if bytes(value) == b"null"]:
        del fields[name]


def _plain_stream_options(fields: Fields, *, is_stream: bool) -> None:
    """Without a stream they are refused; where they are there, usage comes, unless they say otherwise."""
    if "stream_options" not in fields:
        return
    if not is_stream:
        del fields["stream_options"]
        return
    try:
        options = _decode_fields(fields["stream_options"])
    except msgspec.DecodeError:
        return
    kept = {"include_usage": msgspec.Raw(b"false")}
    kept |= {key: value for key, value in options.items() if key in _STREAM_OPTIONS and bytes(value) != b"null"}
    fields["stream_options"] = msgspec.Raw(_encode(kept))
