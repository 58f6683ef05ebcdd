"""The answers of `trtllm-serve` as OpenAI has them: usage once, at the end of a stream; calls of a demanded tool."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import msgspec

from backends.engine.rewriting import BORDER, DONE
from backends.errors import UpstreamProtocolError

_USAGE = b',"usage":{'
_INDEX = re.compile(rb'"index":(\d+)')
_CHOICES = b',"choices":['
_NO_CHOICES = b',"choices":[]'

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.encode


class Chunks:
    """The chunks of one stream: usage once, at its end; a named tool's name once, with an id, at its begin.

    The engine puts usage on every chunk, or in chunks without choices (one for each prompt), or both.
    """

    def __init__(self, *, n: int, names_tool: bool, is_demanded: bool) -> None:
        self._n = n
        self._names_tool = names_tool
        self._is_demanded = is_demanded
        self._head = b""
        self._running: dict[int, dict[str, Any]] = {}
        self._totals: list[dict[str, Any]] = []
        self._called: set[int] = set()

    def convert(self, events: bytes) -> bytes:
        if not self._names_tool and _USAGE not in events and DONE not in events:
            return events
        return b"".join(map(self._event, events.split(BORDER)[:-1]))

    def end(self) -> bytes:
        return b""

    def _event(self, event: bytes) -> bytes:
        if event.startswith(DONE):
            return self._usage() + DONE + BORDER
        at = event.rfind(_USAGE)
        if at >= 0:
            event = self._without_usage(event, at)
            if not event:
                return b""
        if self._names_tool and b'"tool_calls":[{' in event:
            event = self._call(event)
        return event + BORDER

    def _without_usage(self, event: bytes, at: int) -> bytes:
        """The event up to its usage, which is the last of its keys; nothing where it has no choices."""
        kept, rest = event[:at], event[at + len(_USAGE) - 1 :].rstrip()
        usage = _decode(rest[:-1])
        if not self._head:
            self._head = kept[: kept.find(_CHOICES)]
        if kept.endswith(_NO_CHOICES):
            self._totals.append(usage)
            return b""
        index = _INDEX.search(kept)
        if index is None:
            raise UpstreamProtocolError("The engine sent a choice without its index.")
        self._running[int(index[1])] = usage
        return kept + b"}"

    def _usage(self) -> bytes:
        """The usage chunk. Each total counts its own prompt; of choices those of one prompt share it."""
        if self._totals:
            usage = self._totals[0] if len(self._totals) == 1 else _sum(self._totals, self._totals)
        elif self._running:
            first_choices = [usage for index, usage in self._running.items() if index % self._n == 0]
            usage = _sum(first_choices, list(self._running.values()))
        else:
            return b""
        return self._head + _NO_CHOICES + b',"usage":' + _encode(usage) + b"}" + BORDER

    def _call(self, event: bytes) -> bytes:
        """OpenAI's clients add the pieces of a name up, and want an id."""
        chunk = _decode(event.removeprefix(b"data: "))
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                if choice["index"] in self._called:
                    call["function"].pop("name", None)
                else:
                    self._called.add(choice["index"])
                    call["id"] = call.get("id") or f"call_{uuid4().hex}"
        if self._is_demanded:
            _end_by_calls(chunk["choices"])
        return b"data: " + _encode(chunk)


def ended_by_its_call(body: bytes) -> bytes:
    """A whole answer to a demand for a tool: the call is the reason that it ended."""
    answer = _decode(body)
    _end_by_calls(answer["choices"])
    return _encode(answer)


def _end_by_calls(choices: list[dict[str, Any]]) -> None:
    for choice in choices:
        if choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "tool_calls"


def _sum(prompts: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
    """One usage of several: their prompts, cached parts included, and their answers."""
    read = sum(usage["prompt_tokens"] for usage in prompts)
    written = sum(usage.get("completion_tokens") or 0 for usage in answers)
    cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in prompts)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
