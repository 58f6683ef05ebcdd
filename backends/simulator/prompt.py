"""Messages of every API, read as far as the echo needs: the prompt they make, and what the last one says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backends.simulator.faults import RequestError
from backends.simulator.plan import Form, Tools


class Part(msgspec.Struct):
    """A part of a message's content: text, or the result of a tool, whose content has parts itself."""

    type: str = "text"
    text: str | None = None
    content: str | list[Part] | None = None


Content = str | list[Part] | None


class Message(msgspec.Struct):
    """A message of the chat, Anthropic's or Responses' APIs; `output` is a function's, in the last."""

    role: str = "user"
    content: Content = None
    type: str = "message"
    output: Content = None


def read(content: Content) -> str:
    """The text of a content."""
    if content is None or isinstance(content, str):
        return content or ""
    return " ".join(filter(None, (part.text or read(part.content) for part in content)))


def render(messages: Sequence[Message], system: str = "", *, opened: bool = True) -> str:
    """The prompt that the messages make: a word for each role, one that opens the answer at the end."""
    lines = [f"<|system|> {system}"] if system else []
    lines += [f"<|{message.role}|> {read(message.content) or read(message.output)}" for message in messages]
    return "\n".join([*lines, "<|assistant|>"] if opened else lines)


def last(messages: Sequence[Message]) -> str:
    """What the user, or a tool, said last."""
    for message in reversed(messages):
        if message.type == "function_call_output":
            return read(message.output)
        if message.role in ("user", "tool") and message.type == "message":
            return read(message.content)
    return ""


class Function(msgspec.Struct):
    """A function that the model may call. Responses has its fields in the tool itself."""

    name: str
    parameters: dict[str, Any] | None = None


def tools(functions: Sequence[Function], choice: object) -> Tools | None:
    """The tools on offer under a `tool_choice`: a word, or an object that names a function at some depth."""
    offered = {function.name: function.parameters or {} for function in functions}
    if not offered or choice == "none":
        return None
    if choice in (None, "auto"):
        return Tools(offered)
    if choice in ("required", "any"):
        return Tools(offered, "*")
    named = choice.get("function", choice).get("name") if isinstance(choice, dict) else None
    if named not in offered:
        raise RequestError(400, f"tool_choice names {named!r}, which `tools` does not have.", param="tool_choice")
    return Tools(offered, named)


class JsonSchema(msgspec.Struct):
    """The `json_schema` of a `response_format`."""

    schema: dict[str, Any] | None = None


class Format(msgspec.Struct):
    """`response_format` of chat, `text.format` of Responses (which has the schema beside the type)."""

    type: str = "text"
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


def form(wanted: Format | None) -> Form | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Form()
    schema = wanted.json_schema.schema if wanted.json_schema is not None else wanted.schema
    if wanted.type != "json_schema" or schema is None:
        raise RequestError(400, f"response_format {wanted.type!r} needs a schema or is not known.", param="type")
    return Form(schema)
