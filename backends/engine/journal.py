"""What a stream of chat or completion chunks has said so far: as much as another engine needs to go on with it."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.engine.pattern import Pattern
from backends.errors import UpstreamError

_DATA = b"data: "
_END = b'"'
# As a quote is escaped within the text, so that a bare one ends each token's.
_QUOTE, _SAFE_QUOTE = b'\\"', b"\\u0022"


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: msgspec.Raw = msgspec.Raw(b"null")
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Code(msgspec.Struct):
    code: int | str | None = None
    message: str = ""


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_code = msgspec.json.Decoder(_Code).decode
_decode_text = msgspec.json.Decoder(str).decode


class ReportedError(UpstreamError):
    """The engine says in its stream that it failed: `event` is how. `is_final`: another would say the same."""

    def __init__(self, message: str, event: bytes, *, is_final: bool) -> None:
        super().__init__(message)
        self.event = event
        self.is_final = is_final


class Journal:
    """Fed with every event of a stream whose token was not kept.

    `unsafe` says why the stream cannot be gone on with elsewhere, in a word or two; empty while it can.
    """

    __slots__ = ("_first", "_text", "has_begun", "is_done", "is_finished", "keep", "pattern", "unsafe", "usage")

    def __init__(self, unsafe: str = "") -> None:
        self.unsafe = unsafe
        self.pattern = Pattern()
        self.has_begun = False
        """Whether anything went to the client."""
        self.is_finished = False
        """A `finish_reason` was told: what may still come is the usage."""
        self.is_done = False
        self.usage: Usage | None = None
        self._text = bytearray()  # as JSON writes it, a quote after each token
        self.keep = self._text.extend
        """Takes a token's text and the quote after it, as they stand in its event."""
        self._first: dict[str, msgspec.Raw] = {}

    @property
    def size(self) -> int:
        """Grows with the text."""
        return len(self._text)

    @property
    def tokens(self) -> int:
        """How many events had text: at least so many tokens."""
        return self._text.count(_END)

    def text(self) -> str:
        """All text so far. Raises `msgspec.DecodeError` if an engine cut a character in two."""
        return _decode_text(b'"%b"' % bytes(self._text.replace(_END, b"")))

    def head(self) -> dict[str, msgspec.Raw]:
        """The fields that all chunks of this stream share: `id`, `object`, `created`, `model`."""
        return {key: self._first[key] for key in ("id", "object", "created", "model") if key in self._first}

    def note(self, event: bytes) -> None:
        """One whole event on its way to the client. Raises `ReportedError` for the engine's own error."""
        text = self.pattern.text(event)
        if text is not None:
            self._text += text + _END
            return
        if not event.startswith(_DATA):
            if not event.startswith(b":"):
                self.unsafe = self.unsafe or "its events have names"
            return
        data = event[len(_DATA) :]
        if data.startswith(b"[DONE]"):
            self.is_done = True
            return
        try:
            self._read(data, event)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.unsafe = self.unsafe or "its events are of another form"
        self.has_begun = True

    def _read(self, data: bytes, event: bytes) -> None:
        chunk = _decode_chunk(data)
        if bytes(chunk.error) != b"null":
            raise _reported(chunk.error, event)
        if not self._first:
            self._first = _decode_fields(data)
        if chunk.usage is not None:
            self.usage = chunk.usage
        is_plain = len(chunk.choices) == 1
        for choice in chunk.choices:
            delta = choice.delta or _Delta()
            if choice.index:
                self.unsafe = "several choices"
            if delta.tool_calls or bytes(delta.function_call) != b"null":
                self.unsafe = "a tool call"
            if delta.reasoning_content or delta.reasoning or delta.refusal:
                self.unsafe = "reasoning"
            self.is_finished = self.is_finished or choice.finish_reason is not None
            if text := delta.content or choice.text:
                self._text += msgspec.json.encode(text)[1:-1].replace(_QUOTE, _SAFE_QUOTE) + _END
        if is_plain and not self.unsafe and not self.is_finished:
            self.pattern.learn(event)


def _reported(error: msgspec.Raw, event: bytes) -> ReportedError:
    try:
        told: Any = _decode_code(error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = _Code()
    is_final = isinstance(told.code, int) and 400 <= told.code < 500 and told.code != 429
    return ReportedError(told.message or "The engine reported an error in its stream.", event, is_final=is_final)
