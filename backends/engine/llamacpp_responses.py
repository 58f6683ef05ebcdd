"""The Responses API on llama.cpp: what its requests and events leave out is put in, event by event."""

from __future__ import annotations

import secrets
from time import time
from typing import Any

import msgspec

from backends.engine.llamacpp_tools import MARK, demand, tool_call
from backends.engine.rewriting import BORDER
from backends.errors import InvalidRequest, UnsupportedOperation

_Object = dict[str, Any]
_Fields = dict[str, msgspec.Raw]
_decode = msgspec.json.Decoder(_Object).decode
_encode = msgspec.json.encode

_NOTHING = msgspec.Raw(b"")

# What a response object has beside its output, as OpenAI fills it where the request said nothing.
_SKELETON: _Object = {
    "object": "response",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "model": "",
    "output": [],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "usage": None,
    "user": None,
}
# llama.cpp keeps no response, whatever the request says.
_TOLD = _SKELETON.keys() - {
    "object", "background", "error", "incomplete_details", "output", "previous_response_id", "store", "usage",
}  # fmt: skip
# Events of a part of an item; an item of llama.cpp's has one part.
_OF_PARTS = ("response.content_part.", "response.output_text.", "response.reasoning_text.")


class _Format(msgspec.Struct):
    type: str = "text"
    name: str = "schema"
    schema: msgspec.Raw = msgspec.Raw(b"{}")
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


_decode_text = msgspec.json.Decoder(_Text | None).decode


def changes(fields: _Fields) -> _Fields:
    """What to change in a request: a format or a tool that it demands, which llama.cpp takes in chat's form only.

    Raises `UnsupportedOperation` for a response in the background, `InvalidRequest` for a demand that cannot be met.
    """
    if bytes(fields.get("background", _NOTHING)) == b"true":
        raise UnsupportedOperation("llama.cpp keeps no responses: none can run in the background.", param="background")
    try:
        text = _decode_text(fields["text"]) if "text" in fields else None
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"'text' cannot be read: {error}.", param="text") from error
    changed: _Fields = {}
    if text is not None and text.format is not None and text.format.type != "text":
        wanted: _Object = {"type": text.format.type}
        if text.format.type == "json_schema":
            wanted["json_schema"] = {"name": text.format.name, "strict": True, "schema": text.format.schema}
        changed["response_format"] = msgspec.Raw(_encode(wanted))
    choice = fields.get("tool_choice", _NOTHING)
    if demanded := demand(fields.get("tools", _NOTHING), choice):
        # Said to the way back instead of how the answer ends: what the response shall repeat.
        changed |= demanded | {MARK: choice}
    return changed


class ResponseEvents:
    """The events of one stream as OpenAI has them; `asked` is the request as it went upstream.

    `max_tokens` is the model's cap, `context_length` what prompt and answer share: llama.cpp says "completed" where
    either ended the answer, so its length tells. (One that ended by itself on the last token counts as cut.)
    """

    def __init__(self, asked: bytes, *, max_tokens: int, context_length: int) -> None:
        fields = _decode(asked)
        self._demanded = fields.pop(MARK, None)
        if self._demanded is not None:
            fields["tool_choice"] = self._demanded
        limit = fields.get("max_output_tokens")
        self._max_tokens = min(limit, max_tokens) if isinstance(limit, int) and limit >= 0 else max_tokens
        self._context_length = context_length
        told = {key: value for key, value in fields.items() if key in _TOLD and value is not None}
        self._skeleton = {"id": "", "created_at": int(time()), **_SKELETON, **told}
        self._places: dict[str, int] = {}
        self._held: list[_Object] = []
        self._sent = 0

    def convert(self, events: bytes) -> bytes:
        return b"".join(map(self._event, events.split(BORDER)[:-1]))

    def end(self) -> bytes:
        return b""

    def _event(self, event: bytes) -> bytes:
        start = event.find(b"data: ")
        if start < 0 or not event.startswith(b"event: response."):
            return event + BORDER
        said = _decode(event[start + 6 :])
        if said["type"] == "response.completed":
            return self._completed(said["response"])
        if said.pop("prompt_progress", None) is not None and self._sent > 1:
            return b""  # the first stands for response.in_progress, which llama.cpp does not say itself then
        if "response" in said:
            return self._send({"type": said["type"], "response": self._skeleton | said["response"]})
        if self._demanded is not None:
            self._held.append(said)
            return b""
        return self._send(said)

    def _completed(self, response: _Object) -> bytes:
        """The last event, after those of a call that was demanded or, where none came of it, of the text."""
        before = b""
        if self._demanded is not None:
            said = [item["content"] for item in response["output"] if item["type"] == "message"]
            text = "".join(part["text"] for content in said for part in content)
            if (call := tool_call(text)) is None:
                before = b"".join(map(self._send, self._held))
            else:
                response["output"] = [_item(call["function"])]
                before = b"".join(map(self._send, _call_events(response["output"][0])))
        for item in response["output"]:
            _complete(item)
        usage = response["usage"]
        usage["output_tokens_details"] = {"reasoning_tokens": 0}
        usage.setdefault("input_tokens_details", {"cached_tokens": 0}).setdefault("cache_write_tokens", 0)
        whole = self._skeleton | response | {"created_at": self._skeleton["created_at"]}
        kind = "response.completed"
        if (
            usage["output_tokens"] >= self._max_tokens
            or usage["input_tokens"] + usage["output_tokens"] >= self._context_length
        ):
            kind = "response.incomplete"
            whole |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        return before + self._send({"type": kind, "response": whole})

    def _send(self, said: _Object) -> bytes:
        """One event with its places; the end of a call's arguments, which llama.cpp leaves out, before its item's."""
        kind = said["type"]
        item = said.get("item")
        before = b""
        if item is not None:
            _complete(item)
            said["output_index"] = self._places.setdefault(item["id"], len(self._places))
            if kind == "response.output_item.done" and item["type"] == "function_call":
                before = self._send(
                    {
                        "type": "response.function_call_arguments.done",
                        "item_id": item["id"],
                        "name": item["name"],
                        "arguments": item["arguments"],
                    }
                )
        elif "item_id" in said:
            said["output_index"] = self._places.setdefault(said["item_id"], len(self._places))
            if kind.startswith(_OF_PARTS):
                said["content_index"] = 0
            if kind.startswith("response.output_text."):
                said.setdefault("logprobs", [])
        if (part := said.get("part")) and part["type"] == "output_text":
            part.update({"annotations": [], "logprobs": []} | part)
        said["sequence_number"] = self._sent
        self._sent += 1
        return before + b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(said))


def _complete(item: _Object) -> None:
    if item["type"] == "function_call":
        item.setdefault("id", item["call_id"])  # by which llama.cpp's events of its arguments name it


def _item(function: _Object) -> _Object:
    token = secrets.token_hex(12)
    return {"type": "function_call", "id": f"fc_{token}", "call_id": f"call_{token}", "status": "completed", **function}


def _call_events(item: _Object) -> list[_Object]:
    return [
        {"type": "response.output_item.added", "item": item | {"arguments": "", "status": "in_progress"}},
        {"type": "response.function_call_arguments.delta", "item_id": item["id"], "delta": item["arguments"]},
        {"type": "response.output_item.done", "item": item},
    ]
