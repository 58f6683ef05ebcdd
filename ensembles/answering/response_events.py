"""A response of the Responses API with a file search in it: its object, and its events in OpenAI's order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec

from backends.errors import InvalidRequest, NotFound, Overloaded, RateLimited, ServingError
from ensembles.answering.answer import Cited, search_results
from ensembles.answering.citations import Citation, Markers
from ensembles.answering.response_request import ResponseRequest

_encode = msgspec.json.encode
_ZERO_USAGE: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class Response:
    """One response while it becomes. Methods that end in events return their bytes.

    In order: `begin`, `searched`, `say` and `call` as the answer comes, `close`, `end`; or `fail` instead of any.
    """

    def __init__(self, asked: ResponseRequest, model: str) -> None:
        self._asked = asked
        self._number = 0
        self._search: dict[str, Any] = {
            "id": f"fs_{uuid4().hex}",
            "type": "file_search_call",
            "status": "in_progress",
            "queries": [],
            "results": None,
        }
        self._message: dict[str, Any] = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._place: dict[str, Any] = {}
        self._items: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._annotations: list[dict[str, Any]] = []
        self._texts: list[str] = []
        self._cited: Cited | None = None
        self._markers = Markers(0)
        self.object = _object(asked.echoed, model)

    def begin(self) -> bytes:
        """The response, and the search that begins with it."""
        place = {"item_id": self._search["id"], "output_index": 0}
        return b"".join(
            (
                self._event("created", response=self.object),
                self._event("in_progress", response=self.object),
                self._event("output_item.added", output_index=0, item=self._search),
                self._event("file_search_call.in_progress", **place),
                self._event("file_search_call.searching", **place),
            )
        )

    def searched(self, cited: Cited) -> bytes:
        """The search is done."""
        self._cited = cited
        search = self._search
        search["status"] = "completed"
        search["queries"] = [cited.turn.query]
        if self._asked.include_results:
            search["results"] = search_results(cited.turn.passages)
        self.object["output"].append(search)
        place = {"item_id": search["id"], "output_index": 0}
        completed = self._event("file_search_call.completed", **place)
        return completed + self._event("output_item.done", output_index=0, item=search)

    def say(self, text: str) -> bytes:
        """More of the answer, and the citations in it. The message begins with its first text."""
        return self._opened() + self._said(*self._markers.feed(text)) if text else b""

    def call(self, calls: Sequence[dict[str, Any]]) -> bytes:
        """More of the calls of functions, as a chat's delta or its message has them."""
        return b"".join(self._called(call.get("index", place), call) for place, call in enumerate(calls))

    def close(self, finish_reason: str) -> bytes:
        """Everything is said: what ends the message and the calls. Without either the message is empty."""
        reason = _INCOMPLETE.get(finish_reason)
        if reason is not None:
            self.object["incomplete_details"] = {"reason": reason}
        events = b"" if self._calls else self._opened()
        for item in self._items:
            events += self._text_done() if item is self._message else self._arguments_done(item)
            item["status"] = "completed" if reason is None else "incomplete"
            self.object["output"].append(item)
            events += self._event("output_item.done", output_index=len(self.object["output"]) - 1, item=item)
        return events

    def end(self, usage: dict[str, Any] | None) -> bytes:
        """The last event."""
        self.object["status"] = "incomplete" if self.object["incomplete_details"] else "completed"
        self.object["usage"] = _usage(usage or _ZERO_USAGE)
        return self._event(self.object["status"], response=self.object)

    def fail(self, error: ServingError) -> bytes:
        """The last event of a response that came to nothing more."""
        self.object["status"] = "failed"
        code = next((code for kinds, code in _CODES if isinstance(error, kinds)), "server_error")
        self.object["error"] = {"code": code, "message": error.message}
        return self._event("failed", response=self.object)

    def _at(self, item: dict[str, Any]) -> dict[str, Any]:
        """Where an item is: the search is the first."""
        place = next(place for place, each in enumerate(self._items, 1) if each is item)
        return {"item_id": item["id"], "output_index": place}

    def _begun(self, item: dict[str, Any]) -> bytes:
        self._items.append(item)
        return self._event("output_item.added", output_index=len(self._items), item=item)

    def _opened(self) -> bytes:
        """The message begins, unless it has."""
        if self._place:
            return b""
        assert self._cited is not None
        self._markers = self._cited.markers()
        added = self._begun(self._message)
        self._place = {**self._at(self._message), "content_index": 0}
        return added + self._event("content_part.added", **self._place, part=_part("", []))

    def _text_done(self) -> bytes:
        """The last of the text, and citations by words if it has none."""
        assert self._cited is not None
        events = self._said(*self._markers.end())
        text = "".join(self._texts)
        if not self._annotations:
            events += b"".join(map(self._annotation, self._cited.by_words(text)))
        self._cited.ended(self._markers)
        part = _part(text, self._annotations)
        self._message["content"] = [part]
        events += self._event("output_text.done", **self._place, text=text, logprobs=[])
        return events + self._event("content_part.done", **self._place, part=part)

    def _called(self, index: int, call: dict[str, Any]) -> bytes:
        function = call.get("function") or {}
        events = b""
        if index not in self._calls:
            self._calls[index] = {
                "id": f"fc_{uuid4().hex}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": call.get("id") or f"call_{uuid4().hex}",
                "name": function.get("name") or "",
                "arguments": "",
            }
            events = self._begun(self._calls[index])
        item, arguments = self._calls[index], function.get("arguments") or ""
        item["arguments"] += arguments
        if arguments:
            events += self._event("function_call_arguments.delta", **self._at(item), delta=arguments)
        return events

    def _arguments_done(self, item: dict[str, Any]) -> bytes:
        told = {"name": item["name"], "arguments": item["arguments"]}
        return self._event("function_call_arguments.done", **self._at(item), **told)

    def _said(self, text: str, citations: list[Citation]) -> bytes:
        if not text:
            return b""
        self._texts.append(text)
        delta = self._event("output_text.delta", **self._place, delta=text, logprobs=[])
        return delta + b"".join(map(self._annotation, citations))

    def _annotation(self, citation: Citation) -> bytes:
        assert self._cited is not None
        annotation = self._cited.file_citation(citation)
        index = len(self._annotations)
        self._annotations.append(annotation)
        return self._event("output_text.annotation.added", **self._place, annotation_index=index, annotation=annotation)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        data = _encode({"type": f"response.{name}", "sequence_number": number, **fields})
        return b"event: response.%b\ndata: %b\n\n" % (name.encode(), data)


# All that OpenAI has for what can happen here.
_CODES: tuple[tuple[tuple[type[ServingError], ...], str], ...] = (
    ((Overloaded, RateLimited), "rate_limit_exceeded"),
    ((InvalidRequest, NotFound), "invalid_prompt"),
)
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _object(echoed: dict[str, Any], model: str) -> dict[str, Any]:
    """As OpenAI's; it is not kept anywhere, whatever the request says."""
    defaults: dict[str, Any] = {
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "reasoning": None,
        "service_tier": "default",
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    said = {name: value for name, value in echoed.items() if name in defaults and value is not None}
    return {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
        **defaults,
        **said,
    }


def _part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }
