"""Tool calls that a request demands (`tool_choice` required, or a function by name), on llama.cpp.

Left to itself llama.cpp lets the model say anything before the call, and a small one says it until its tokens are
used up. So the answer is constrained to a JSON object, `{"name", "arguments"}` of one of the tools, by llama.cpp's
own grammar from a JSON schema, and that object is put where OpenAI has it. Such a call comes in one piece.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from backends.errors import InvalidRequest, UnsupportedOperation

# An unknown field, which llama.cpp ignores: says to the way back what the client demanded.
MARK = "tritium_demand"

_Fields = dict[str, msgspec.Raw]


class _Function(msgspec.Struct):
    name: str
    parameters: Any = None


class _Tool(msgspec.Struct):
    """In the form of chat, where the function is a field, or of Responses, where its fields are the tool's."""

    type: str = "function"
    function: _Function | None = None
    name: str = ""
    parameters: Any = None


class _Kind(msgspec.Struct):
    type: str = "function"


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw


_decode_tools = msgspec.json.Decoder(list[_Tool]).decode
_decode_kinds = msgspec.json.Decoder(list[_Kind] | None).decode
_decode_choice = msgspec.json.Decoder(_Tool).decode
_decode_call = msgspec.json.Decoder(_Call).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


def demands_a_tool(tool_choice: msgspec.Raw) -> bool:
    """Whether a choice in Anthropic's form demands a call: `{"type": "any"}` or `{"type": "tool", "name"}`."""
    try:
        return _decode_choice(tool_choice).type in {"any", "tool"} if tool_choice else False
    except msgspec.DecodeError:
        return False  # the engine judges it


def check_kinds(tools: msgspec.Raw) -> None:
    """Raise `UnsupportedOperation` for a tool of a chat that is no function, at which llama.cpp fails with 500."""
    try:
        kinds = _decode_kinds(tools) or ()
    except msgspec.DecodeError:
        return  # the engine judges it
    for number, tool in enumerate(kinds):
        if tool.type != "function":
            raise UnsupportedOperation(f"llama.cpp has no tools of type {tool.type!r}.", param=f"tools[{number}]")


def demand(tools: msgspec.Raw, tool_choice: msgspec.Raw) -> _Fields:
    """What to change in a request that demands a tool call; nothing where it demands none.

    Raises `InvalidRequest` for a function that is not among the tools, or tools that cannot be read.
    """
    choice = bytes(tool_choice)
    if choice != b'"required"' and not choice.startswith(b"{"):
        return {}
    try:
        functions = [_function(tool) for tool in _decode_tools(tools or b"[]") if tool.type == "function"]
        named = "" if choice == b'"required"' else _function(_decode_choice(tool_choice)).name
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The tools or the 'tool_choice' cannot be read: {error}.", param="tools") from error
    if named:
        functions = [function for function in functions if function.name == named]
    if not functions:
        missing = f"no function {named!r} is among the 'tools'" if named else "there are no 'tools'"
        raise InvalidRequest(f"'tool_choice' demands a tool call, but {missing}.", param="tool_choice")
    schemas = [_schema(function) for function in functions]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    constraint = {"type": "json_schema", "json_schema": {"name": "tool_call", "strict": True, "schema": schema}}
    return {
        "tool_choice": msgspec.Raw(b'"none"'),
        "response_format": msgspec.Raw(msgspec.json.encode(constraint)),
        # As OpenAI: a call by name ends with "stop", a required one with "tool_calls".
        MARK: msgspec.Raw(b'"stop"' if named else b'"tool_calls"'),
    }


def tool_call(text: str) -> dict[str, Any] | None:
    """The call that a constrained answer is, None where it was cut."""
    try:
        call = _decode_call(text)
    except msgspec.DecodeError:
        return None
    function = {"name": call.name, "arguments": bytes(call.arguments).decode()}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


class CallEvents:
    """The chunks of a stream with their text held back until it is a whole call; `event` rewrites one."""

    def __init__(self, finish_reason: str) -> None:
        self._finish_reason = finish_reason
        self._texts: dict[int, str] = {}

    def event(self, event: bytes) -> bytes:
        if not event.startswith(b'data: {"choices":[{'):
            return event
        chunk = _decode_any(event.removeprefix(b"data: "))
        choice = chunk["choices"][0]
        index, text = choice["index"], choice["delta"].get("content")
        if text:
            self._texts[index] = self._texts.get(index, "") + text
            return b""
        if choice["finish_reason"] is None:
            return event
        call = tool_call(self._texts.get(index, ""))
        if call is None:
            delta: dict[str, Any] = {"content": self._texts.get(index, "")}
        else:
            delta = {"tool_calls": [{"index": 0, **call}]}
            choice["finish_reason"] = self._finish_reason
        said = {key: chunk[key] for key in chunk if key not in {"timings", "usage"}}
        said["choices"] = [{"index": index, "delta": delta, "finish_reason": None}]
        return b"data: %b\n\ndata: %b" % (msgspec.json.encode(said), msgspec.json.encode(chunk))


def _function(tool: _Tool) -> _Function:
    if tool.function is not None:
        return tool.function
    if not tool.name:
        raise msgspec.ValidationError("a function has no name")
    return _Function(tool.name, tool.parameters)


def _schema(function: _Function) -> dict[str, Any]:
    arguments = function.parameters if isinstance(function.parameters, dict) else {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
