"""A Responses request as a chat: what becomes of its items and options, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from backends.errors import InvalidRequest
from ensembles.answering.chat_request import Fields
from ensembles.answering.search_options import FILE_SEARCH, Search
from ensembles.options import decode
from ensembles.texts import last_question, text_of

RESULTS = "file_search_call.results"
# What chat has under the same name.
_SHARED = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "user",
    "cache_salt",
    "service_tier",
    "frequency_penalty",
    "presence_penalty",
    "echo",
)
# What would need answers to be kept, or prompts.
_REFUSED = ("previous_response_id", "conversation", "prompt")
_PASSED_OVER = frozenset({"file_search_call", "reasoning", "web_search_call", "item_reference"})
_FORMATS = ("text", "json_object", "json_schema")
_CHOICES = ("auto", "required", FILE_SEARCH, "allowed_tools")

_Value = Annotated[str, Meta(max_length=512)]
_Metadata = Annotated[dict[Annotated[str, Meta(max_length=64)], _Value], Meta(max_length=16)]


class Tool(Search, kw_only=True):
    type: str


class _Text(msgspec.Struct):
    format: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    """What is read of a request, and what a response repeats of it: that must be of OpenAI's types."""

    input: str | list[dict[str, Any]]
    model: str = ""
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: object = "auto"
    include: list[str] | None = None
    background: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    text: _Text | None = None
    metadata: _Metadata | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    service_tier: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    previous_response_id: object = None
    conversation: object = None
    prompt: object = None


@dataclass(slots=True)
class ResponseRequest:
    """`fields` are those of the chat, `echoed` what a response repeats of its request."""

    fields: Fields
    messages: list[dict[str, Any]]
    query: str
    search: Search
    include_results: bool
    echoed: dict[str, Any]


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read(body: bytes) -> ResponseRequest:
    """Raises `InvalidRequest` naming the field that is wrong or cannot be done."""
    asked = decode(body, _Request, "The request")
    fields = _decode_fields(body)
    tool = _tool(asked)
    for name in _REFUSED:
        if getattr(asked, name) is not None:
            raise InvalidRequest(f"'{name}' cannot be used with file search: send the conversation.", param=name)
    if asked.background:
        raise InvalidRequest("A response with file search does not run in the background.", param="background")
    messages = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    messages += _messages(asked.input)
    index = last_question(messages)
    if index < 0:
        raise InvalidRequest("The input holds no text of the user's to search by.", param="input")
    chat = {name: fields[name] for name in _SHARED if name in fields}
    if asked.max_output_tokens is not None:
        chat["max_tokens"] = msgspec.Raw(msgspec.json.encode(asked.max_output_tokens))
    form = _format(asked.text)
    if form["type"] != "text":
        chat["response_format"] = msgspec.Raw(msgspec.json.encode(_response_format(form)))
    echoed = {name: msgspec.json.decode(value) for name, value in fields.items() if name not in {"input", "include"}}
    return ResponseRequest(
        chat,
        messages,
        text_of(messages[index]["content"]).strip(),
        tool,
        RESULTS in (asked.include or ()),
        echoed | {"text": {**(echoed.get("text") or {}), "format": form}},
    )


def _tool(asked: _Request) -> Search:
    """The file search; an empty one where there is none, which searches what the pipeline says."""
    tools = asked.tools or []
    for number, tool in enumerate(tools):
        if tool.type != FILE_SEARCH:
            raise InvalidRequest(
                f"The tool '{tool.type}' cannot stand beside file search here: ask for it in a request of its own.",
                param=f"tools[{number}]",
            )
    if len(tools) > 1:
        raise InvalidRequest("Only one file search can be asked for.", param="tools")
    if asked.tool_choice == "none" and tools:
        raise InvalidRequest("'tool_choice' is 'none' beside a file search: leave the tool out.", param="tool_choice")
    kind = asked.tool_choice.get("type") if isinstance(asked.tool_choice, dict) else asked.tool_choice
    if tools and kind is not None and kind not in _CHOICES:
        raise InvalidRequest(
            f"'tool_choice' is {kind!r}, and there is file search alone: it is one of {', '.join(_CHOICES)}.",
            param="tool_choice",
        )
    return tools[0] if tools else Search()


def _messages(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages = []
    for number, item in enumerate(given):
        kind = item.get("type") or "message"
        if kind == "message":
            if not isinstance(item.get("role"), str):
                raise InvalidRequest(f"The message input[{number}] has no 'role'.", param="input")
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append({"role": role, "content": _content(item.get("content"), number)})
        elif kind not in _PASSED_OVER:
            raise InvalidRequest(f"An input item of type '{kind}' cannot be used with file search.", param="input")
    return messages


def _content(content: object, number: int) -> str | list[dict[str, Any]]:
    """A string where all of it is text, as small engines want it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"The content of input[{number}] is neither a text nor a list.", param="input")
    parts = [_part(part, number) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: object, number: int) -> dict[str, Any]:
    fields = part if isinstance(part, dict) else {}
    match fields.get("type"):
        case "input_text" | "output_text" | "text" if isinstance(fields.get("text"), str):
            return {"type": "text", "text": fields["text"]}
        case "refusal" if isinstance(fields.get("refusal"), str):
            return {"type": "text", "text": fields["refusal"]}
        case "input_image" if isinstance(fields.get("image_url"), str):
            image = {"url": fields["image_url"], "detail": fields.get("detail") or "auto"}
            return {"type": "image_url", "image_url": image}
        case kind:
            raise InvalidRequest(
                f"A part of type '{kind}' in input[{number}] cannot be used with file search.", param="input"
            )


def _format(text: _Text | None) -> dict[str, Any]:
    """What the answer shall be. Raises `InvalidRequest` for what OpenAI has not."""
    form = (text and text.format) or {"type": "text"}
    if form.get("type") not in _FORMATS:
        raise InvalidRequest(f"'text.format.type' is one of {', '.join(_FORMATS)}.", param="text.format.type")
    return form


def _response_format(form: dict[str, Any]) -> dict[str, Any]:
    """The same as chat has it."""
    if form["type"] == "json_schema":
        return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    return form
