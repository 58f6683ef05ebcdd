"""A Responses request as a chat: what becomes of its items and options, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from backends.errors import InvalidRequest
from ensembles.answering.chat_request import Fields
from ensembles.answering.response_items import messages_of
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
_FORMATS = ("text", "json_object", "json_schema")
_FUNCTION = "function"
_CHOICES = ("auto", "required", FILE_SEARCH, _FUNCTION, "allowed_tools")

_Value = Annotated[str, Meta(max_length=512)]
_Metadata = Annotated[dict[Annotated[str, Meta(max_length=64)], _Value], Meta(max_length=16)]


class Tool(Search, kw_only=True):
    """A file search, or a function that the model may call beside it."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


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
    tools = asked.tools or []
    search, functions = _search(tools), _functions(tools, asked.tool_choice)
    for name in _REFUSED:
        if getattr(asked, name) is not None:
            raise InvalidRequest(f"'{name}' cannot be used with file search: send the conversation.", param=name)
    if asked.background:
        raise InvalidRequest("A response with file search does not run in the background.", param="background")
    messages = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    messages += messages_of(asked.input)
    index = last_question(messages)
    if index < 0:
        raise InvalidRequest("The input holds no text of the user's to search by.", param="input")
    chat = {name: fields[name] for name in _SHARED if name in fields} | functions
    if functions and "parallel_tool_calls" in fields:
        chat["parallel_tool_calls"] = fields["parallel_tool_calls"]
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
        search,
        RESULTS in (asked.include or ()),
        echoed | {"text": {**(echoed.get("text") or {}), "format": form}},
    )


def _search(tools: Sequence[Tool]) -> Search:
    """The file search; an empty one where there is none, which searches what the pipeline says."""
    for number, tool in enumerate(tools):
        if tool.type not in {FILE_SEARCH, _FUNCTION}:
            raise InvalidRequest(
                f"The tool '{tool.type}' cannot stand beside file search here: ask for it in a request of its own.",
                param=f"tools[{number}]",
            )
        if tool.type == _FUNCTION and not tool.name:
            raise InvalidRequest("A function has a name.", param=f"tools[{number}].name")
    searches = [tool for tool in tools if tool.type == FILE_SEARCH]
    if len(searches) > 1:
        raise InvalidRequest("Only one file search can be asked for.", param="tools")
    return searches[0] if searches else Search()


def _functions(tools: Sequence[Tool], choice: object) -> Fields:
    """What a chat is told of the functions. Raises `InvalidRequest` for a choice that cannot be made.

    Cases of a choice: a function by name; none or any, where a pipeline has functions alone; else any, or the search,
    which it has been by then.
    """
    functions = [tool for tool in tools if tool.type == _FUNCTION]
    searches = len(functions) < len(tools)
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind == "none" and searches:
        raise InvalidRequest("'tool_choice' is 'none' beside a file search: leave the tool out.", param="tool_choice")
    told: dict[str, Any] = {"tools": list(map(_function, functions))} if functions else {}
    if isinstance(choice, dict) and kind == _FUNCTION:
        if choice.get("name") not in {function.name for function in functions}:
            raise InvalidRequest(
                f"'tool_choice' is a function '{choice.get('name')}', which is no tool.", param="tool_choice"
            )
        told["tool_choice"] = {"type": _FUNCTION, _FUNCTION: {"name": choice["name"]}}
    elif kind in {"none", "required"} and functions and not searches:
        told["tool_choice"] = kind
    elif tools and kind is not None and kind not in _CHOICES:
        raise InvalidRequest(f"'tool_choice' is {kind!r}; it is one of {', '.join(_CHOICES)}.", param="tool_choice")
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in told.items()}


def _function(tool: Tool) -> dict[str, Any]:
    said = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": _FUNCTION, _FUNCTION: {key: value for key, value in said.items() if value is not None}}


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
