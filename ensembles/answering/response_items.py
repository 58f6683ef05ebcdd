"""The input items of a Responses request as the messages of a chat."""

from __future__ import annotations

from typing import Any

from backends.errors import InvalidRequest

_PASSED_OVER = frozenset({"file_search_call", "reasoning", "web_search_call", "item_reference"})


def messages_of(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages. Raises `InvalidRequest` for what no chat has, or what nobody here can look up."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(given):
        kind = item.get("type") or "message"
        if kind == "message":
            if not isinstance(item.get("role"), str):
                raise InvalidRequest(f"The message input[{number}] has no 'role'.", param="input")
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append({"role": role, "content": _content(item.get("content"), number)})
        elif kind == "function_call":
            _call(messages, item, number)
        elif kind == "function_call_output":
            output = _content(item.get("output"), number)
            messages.append({"role": "tool", "tool_call_id": _said(item, "call_id", number), "content": output})
        elif kind not in _PASSED_OVER:
            raise InvalidRequest(f"An input item of type '{kind}' cannot be used with file search.", param="input")
    return messages


def _call(messages: list[dict[str, Any]], item: dict[str, Any], number: int) -> None:
    """Calls that were made together, and what was said before them, are one message."""
    function = {name: _said(item, name, number) for name in ("name", "arguments")}
    call = {"id": _said(item, "call_id", number), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _said(item: dict[str, Any], name: str, number: int) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"The item input[{number}] has no text '{name}'.", param="input")
    return value


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
