"""What an answer will be: every token of it is known before the first one leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any, NamedTuple
from uuid import uuid4

from backends.simulator import schema, text

_CALL = re.compile(r"\bcall tool (\S+)")
_DECODER = json.JSONDecoder()


class Token(NamedTuple):
    """A token of the answer: of its text, or of tool call number `call`; the one that `opens` a call is its name."""

    text: str
    call: int = -1
    opens: bool = False


@dataclass(slots=True)
class ToolCall:
    """A tool call of the answer, its arguments as JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Plan:
    """One choice of an answer."""

    tokens: list[Token]
    finish_reason: str
    stop_reason: str | None = None
    call_ids: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens if token.call < 0)

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls, as far as the tokens go."""
        calls: list[ToolCall] = []
        for token in self.tokens:
            if token.opens:
                calls.append(ToolCall(self.call_ids[token.call], token.text, ""))
            elif token.call >= 0:
                calls[token.call].arguments += token.text
        return calls


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds an answer. `natural` is its length without bounds; 0: that of the message."""

    max_tokens: int
    min_tokens: int = 0
    natural: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    keep_stop: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools offered, name to parameters' schema, and the one that must be called (`*`: any)."""

    offered: Mapping[str, Mapping[str, Any]]
    forced: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """Structured output: a JSON object, of this schema where there is one."""

    schema: Mapping[str, Any] | None = None


def plan(
    message: str, limits: Limits, tools: Tools | None = None, form: Form | None = None, *, written: str = ""
) -> Plan:
    """The answer to a message: the tool calls that it names, a value of the wanted form, or its own words.

    `written` is text that the answer has already: only what comes after it is planned, and bounded.
    """
    calls = _calls(message, tools) if tools is not None else []
    if calls:
        call_ids = [f"chatcmpl-tool-{uuid4().hex}" for _ in calls]
        tokens = [token for number, call in enumerate(calls) for token in _call_tokens(number, *call)]
        return _bounded(Plan(tokens, "tool_calls", call_ids=call_ids), limits)
    if form is not None:
        pieces = _after(written, text.shards(_formed(message, form)))
        return _bounded(Plan([Token(piece) for piece in pieces], "stop"), limits)
    words = _after(written, _words(message, limits, text.count(written)))
    return _stopped(Plan([Token(word) for word in words], "stop"), limits)


def _words(message: str, limits: Limits, done: int) -> list[str]:
    """The words of the message, again and again where the answer is to be longer; at most one over the limit.

    `done` of them are there already: `natural` counts these, the other limits do not.
    """
    at_most = done + limits.max_tokens + 1
    wanted = min(done + limits.max_tokens if limits.ignore_eos else limits.natural, at_most)
    least = max(wanted, min(done + limits.min_tokens, at_most))
    words = text.split(message, wanted or at_most)
    if len(words) >= least:
        return words
    words = words or ["echo"]
    again = (word if word[0].isspace() else " " + word for word in cycle(words))
    return [*words, *islice(again, least - len(words))]


def _after(written: str, tokens: list[str]) -> list[str]:
    """What is left of an answer: after the same text, else after as many words."""
    if not written:
        return tokens
    if not "".join(tokens).startswith(written):
        return tokens[text.count(written) :]
    ahead = len(written)
    for place, token in enumerate(tokens):
        if ahead < len(token):
            return [token[ahead:], *tokens[place + 1 :]]
        ahead -= len(token)
    return []


def _bounded(whole: Plan, limits: Limits) -> Plan:
    length = len(whole.tokens)
    if length > limits.max_tokens or (limits.ignore_eos and length == limits.max_tokens):
        return replace(whole, tokens=whole.tokens[: limits.max_tokens], finish_reason="length")
    return whole


def _stopped(whole: Plan, limits: Limits) -> Plan:
    """Cut at the first stop string. The token that completes it counts; what stands after it has no text."""
    whole = _bounded(whole, limits)
    written = whole.text if limits.stop else ""
    found = [(place, stop) for stop in limits.stop if stop and (place := written.find(stop)) >= 0]
    if not found:
        return whole
    place, stop = min(found)
    end = place + len(stop)
    tokens: list[Token] = []
    start = 0
    for token in whole.tokens:
        kept = token.text[: max(0, (end if limits.keep_stop else place) - start)]
        tokens.append(Token(kept))
        start += len(token.text)
        if start >= end:
            break
    return Plan(tokens, "stop", stop)


def _formed(message: str, form: Form) -> str:
    """JSON text: the message itself where it is an object and no schema asks for another."""
    if form.schema is not None:
        return json.dumps(schema.instance(form.schema), ensure_ascii=False)
    try:
        value = json.loads(message)
    except ValueError:
        value = None
    return json.dumps(value if isinstance(value, dict) else {"text": message}, ensure_ascii=False)


def _calls(message: str, tools: Tools) -> list[tuple[str, str]]:
    """Every `call tool NAME {json}` whose tool is offered; the forced tool, when the message names none."""
    calls: list[tuple[str, str]] = []
    for match in _CALL.finditer(message):
        name = match.group(1)
        if name in tools.offered and tools.forced in ("", "*", name):
            calls.append((name, _arguments(message[match.end() :].lstrip(), tools.offered[name])))
    if not calls and tools.forced:
        name = next(iter(tools.offered)) if tools.forced == "*" else tools.forced
        calls.append((name, _arguments("", tools.offered[name])))
    return calls


def _arguments(rest: str, parameters: Mapping[str, Any]) -> str:
    try:
        value, end = _DECODER.raw_decode(rest)
    except ValueError:
        return json.dumps(schema.instance({"type": "object", **parameters}), ensure_ascii=False)
    return rest[:end] if isinstance(value, dict) else "{}"


def _call_tokens(number: int, name: str, arguments: str) -> Sequence[Token]:
    return [Token(name, number, opens=True), *(Token(piece, number) for piece in text.shards(arguments))]
