"""The server-sent events of one stream on their way through: whole events out, usage read, nothing rebuilt."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from backends.errors import UpstreamProtocolError

MAX_EVENT_BYTES = 16 * 1024 * 1024

_ERROR = b'data: {"error"'
_LATER_ERROR = b"\n" + _ERROR
_BOUNDARY = re.compile(rb"\r?\n\r?\n")
_DATA = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)


class Usage(msgspec.Struct):
    """Token counts under the names of OpenAI's chat, Responses and Anthropic's messages alike."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_input_tokens: int | None = None  # Anthropic counts these beside its input_tokens, not among them
    cache_creation_input_tokens: int | None = None

    def counts(self) -> tuple[int, int]:
        """(prompt, completion) tokens."""
        completion = self.completion_tokens or self.output_tokens or 0
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        prompt = self.prompt_tokens or (self.input_tokens or 0) + cached
        return prompt or max(0, (self.total_tokens or 0) - completion), completion


class _Whole(msgspec.Struct):
    usage: Usage | None = None


class _Event(msgspec.Struct):
    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: _Whole | None = None  # Responses: response.completed and its kin
    message: _Whole | None = None  # Messages: message_start


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def usage_of(body: bytes) -> tuple[int, int]:
    """(prompt, completion) tokens that a whole JSON answer reports; zeros where it reports none."""
    try:
        usage = _decode_whole(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0, 0
    return usage.counts() if usage is not None else (0, 0)


class Events:
    """Lets the bytes of an event stream pass in whole events, and reads its usage.

    What is not whole yet is held (at most `MAX_EVENT_BYTES`): so that an event cut by a broken connection never
    reaches the client, and an error event can follow. With `strip_usage`, the usage chunk (`choices: []`), asked
    for only for the accounting, is taken out. An engine's own error event is the last thing that passes.
    """

    __slots__ = (
        "_last",
        "_strip_usage",
        "_tail",
        "completion_tokens",
        "failed",
        "prompt_tokens",
    )

    def __init__(self, *, strip_usage: bool) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.failed = False
        self._strip_usage = strip_usage
        self._tail = b""
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        """The whole events among what came so far. Raises `UpstreamProtocolError` for an event over the limit."""
        if self._tail or not data.endswith(b"\n\n"):
            data = self._whole(data)
        # A key stands in JSON as `"usage":`; inside a string its quotes are escaped, so text cannot imitate it.
        # (`find` takes half the time of `in`.)
        if data.find(b'"usage":') >= 0:
            data = self._read_usage(data)
        if data.startswith(_ERROR) or data.find(_LATER_ERROR) >= 0:
            data = self._cut_after_error(data)
        if data:
            self._last = data
        return data

    def ended_with(self, marks: tuple[bytes, ...]) -> bool:
        """Whether the last event that passed is one of those that end such a stream."""
        last = self._last.rstrip()
        event = last[max(last.rfind(b"\n\n"), last.rfind(b"\r\n\r\n")) + 1 :].lstrip()
        return event.startswith(marks)

    def _whole(self, data: bytes) -> bytes:
        data = self._tail + data
        if data[-2:] == b"\n\n" or data[-4:] == b"\r\n\r\n":
            self._tail = b""
            return data
        bare, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
        cut = max(bare + 2 if bare >= 0 else 0, crlf + 4 if crlf >= 0 else 0)
        self._tail = data[cut:]
        if len(self._tail) > MAX_EVENT_BYTES:
            raise UpstreamProtocolError(f"The engine sent an event of more than {MAX_EVENT_BYTES} bytes.")
        return data[:cut]

    def _read_usage(self, data: bytes) -> bytes:
        """Cases: the usage chunk; usage on each chunk (`continuous_usage_stats`); `usage: null`; a nested usage."""
        kept = []
        start = 0
        for match in _BOUNDARY.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            if b'"usage":' not in event or not self._is_bare_usage(event):
                kept.append(event)
        kept.append(data[start:])
        return b"".join(kept)

    def _is_bare_usage(self, event: bytes) -> bool:
        line = _DATA.search(event)
        try:
            decoded: Any = _decode_event(line.group(1)) if line else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            decoded = None
        if decoded is None:
            return False
        for usage in (
            decoded.usage,
            decoded.response and decoded.response.usage,
            decoded.message and decoded.message.usage,
        ):
            if usage is not None:
                prompt, completion = usage.counts()
                self.prompt_tokens = prompt or self.prompt_tokens
                self.completion_tokens = completion or self.completion_tokens
        return self._strip_usage and decoded.choices == [] and decoded.usage is not None

    def _cut_after_error(self, data: bytes) -> bytes:
        self.failed = True
        end = _BOUNDARY.search(data, data.index(_ERROR))
        return data[: end.end()] if end else data
