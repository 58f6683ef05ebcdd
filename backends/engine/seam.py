"""Where a stream goes on in another engine: what is asked of that one, and its events made part of the same answer."""

from __future__ import annotations

from typing import Any

import msgspec

Fields = dict[str, msgspec.Raw]

_DATA = b"data: "
_BORDER = b"\n\n"
_NOTHING = frozenset({b"null", b"false", b"[]", b'""', b"{}", b"0"})
_LIMITS = ("max_tokens", "max_completion_tokens")
# Asked for, these bind the whole answer or count along it: one part of it cannot be made without the other.
_BINDING = {
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "prompt_logprobs": "logprobs",
    "echo": "an echoed prompt",
    "suffix": "a suffix",
    "use_beam_search": "beam search",
    "guided_json": "constrained output",
    "guided_regex": "constrained output",
    "guided_choice": "constrained output",
    "guided_grammar": "constrained output",
    "structured_outputs": "constrained output",
    "json_schema": "constrained output",
    "grammar": "constrained output",
    "regex": "constrained output",
    "ebnf": "constrained output",
    "functions": "functions",
    "include_stop_str_in_output": "stop strings in the output",
    "no_stop_trim": "stop strings in the output",
}
_FREE_TOOL_CHOICES = frozenset({b'"auto"', b'"none"', b"null"})

_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_decode_stop = msgspec.json.Decoder(str | list[str] | None).decode


class _Format(msgspec.Struct):
    type: str = "text"


_decode_format = msgspec.json.Decoder(_Format).decode


def binding(fields: Fields) -> str:
    """What a request asks for that an answer in two parts could not keep; empty where it asks for nothing such."""
    for name in ("n", "best_of"):
        if bytes(fields.get(name, b"1")) not in {b"1", b"null"}:
            return "several choices"
    for name, what in _BINDING.items():
        if bytes(fields.get(name, b"null")) not in _NOTHING:
            return what
    wanted = fields.get("response_format")
    if wanted is not None and bytes(wanted) != b"null" and _decode_format(wanted).type != "text":
        return "constrained output"
    if bytes(fields.get("tool_choice", b"null")) not in _FREE_TOOL_CHOICES:
        return "a tool choice"
    return ""


def shortened(fields: Fields, tokens: int) -> Fields | None:
    """The fields with so many tokens less to come; None where none are left."""
    changed: Fields = {}
    for name in (*_LIMITS, "min_tokens"):
        value = bytes(fields.get(name, b""))
        if value.isdigit():
            left = int(value) - tokens
            if left < 1 and name in _LIMITS:
                return None
            changed[name] = msgspec.Raw(b"%d" % max(0, left))
    return fields | changed


def least(fields: Fields) -> Fields:
    """The fields with one token to come, for an answer that is over: an engine has still to count its prompt."""
    given = [name for name in _LIMITS if name in fields] or ["max_tokens"]
    return fields | dict.fromkeys(given, msgspec.Raw(b"1")) | {"min_tokens": msgspec.Raw(b"0")}


def stops(fields: Fields) -> tuple[str, ...]:
    """The stop strings of a request."""
    try:
        stop = _decode_stop(fields.get("stop", b"null"))
    except msgspec.DecodeError:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


class Seam:
    """Makes the events of the engine that goes on those of the answer that another one began.

    `head` are the fields that all chunks of the answer share. `sent` is its text so far, which is `tokens` tokens:
    they are part of this engine's prompt, and of the client's completion. `is_over`: nothing more of the text is
    wanted, only the usage.
    """

    def __init__(
        self, head: Fields, sent: str, tokens: int, stops: tuple[str, ...] = (), *, is_over: bool = False
    ) -> None:
        self.owed = b""
        """What goes to the client before anything of this engine's does."""
        self.is_over = is_over
        self._head = head
        self._tokens = tokens
        self._stops = [stop for stop in stops if len(stop) > 1]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._before = sent[-self._reach :] if self._reach else ""
        self._behind = ""
        self._tokens_behind = 0

    def convert(self, event: bytes) -> bytes:
        """One whole event, or nothing in its place."""
        owed, self.owed = self.owed, b""
        return owed + self._convert(event)

    def end(self, reason: str) -> bytes:
        """The chunk with which the text ends for this reason."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        is_chat = bytes(self._head.get("object", b"")) == b'"chat.completion.chunk"'
        choice["delta" if is_chat else "text"] = {} if is_chat else ""
        fields: dict[str, Any] = {**self._head, "choices": [choice]}
        return _DATA + msgspec.json.encode(fields) + _BORDER

    def _convert(self, event: bytes) -> bytes:
        if not event.startswith(_DATA + b"{"):
            return event
        fields: Fields = _decode_fields(event[len(_DATA) :])
        fields |= {key: value for key, value in self._head.items() if key in fields}
        if self.is_over and bytes(fields.get("choices", b"[]")) != b"[]":
            return b""
        if bytes(fields.get("usage", b"null")) != b"null":
            fields["usage"] = self._summed(fields["usage"])
        if self._before or b'"role"' in event:
            choices = msgspec.json.decode(fields.get("choices", b"[]"))
            if choices and self._is_stopped_by(choices[0]):
                self.is_over = True
                return self.end("stop")
            if choices and not _without_role(choices[0]):
                return b""
            fields["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        return _DATA + msgspec.json.encode(fields) + _BORDER

    def _is_stopped_by(self, choice: dict[str, Any]) -> bool:
        """Whether this text ends a stop string that began before the seam, where its engine could not see it."""
        text = choice.get("delta", choice).get("content") or choice.get("text") or ""
        if not self._before or not text:
            return False
        self._behind += text
        self._tokens_behind += 1
        joined = self._before + self._behind
        if any(0 <= joined.find(stop) < len(self._before) for stop in self._stops):
            return True
        if len(self._behind) >= self._reach:
            self._before = ""
        return False

    def _summed(self, raw: msgspec.Raw) -> msgspec.Raw:
        usage = _decode_any(raw)
        prompt = max(0, (usage.get("prompt_tokens") or 0) - self._tokens)
        completion = self._tokens + (self._tokens_behind if self.is_over else usage.get("completion_tokens") or 0)
        usage |= {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        details = usage.get("prompt_tokens_details")
        if details and details.get("cached_tokens"):
            details["cached_tokens"] = min(details["cached_tokens"], prompt)
        return msgspec.Raw(msgspec.json.encode(usage))


def _without_role(choice: dict[str, Any]) -> bool:
    """Take the role off, which the client was told; whether anything is left."""
    delta = choice.get("delta", {})
    if delta.pop("role", None) is None:
        return True
    return bool(delta.get("content") or delta.get("tool_calls") or choice.get("finish_reason"))
