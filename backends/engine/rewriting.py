"""Response bodies that an adapter rewrites: a whole answer once, a stream where it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from backends.errors import UpstreamProtocolError
from backends.model import Body, Frame, OpenAIResponse, Write

DONE = b"data: [DONE]"
BORDER = b"\n\n"
_MAX_EVENT_BYTES = 16 * 1024 * 1024
# Unambiguous: inside a JSON string the quotes would be escaped.
_USAGE = b'"usage":{'
_decode_event = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_usage = msgspec.json.Decoder(dict[str, Any]).decode


class Whole:
    """A body that is read to its end and converted; `convert` takes all of it and returns what is sent instead."""

    def __init__(self, body: Body, convert: Callable[[bytes], bytes]) -> None:
        self._body = body
        self._convert = convert
        self._sent = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._sent:
            raise StopAsyncIteration
        return await self._converted()

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # rewritten anyway
        waits = write(await self._converted())
        if waits is not None:
            await waits

    async def aclose(self) -> None:
        await self._body.aclose()

    async def _converted(self) -> bytes:
        parts = [part async for part in self._body]
        self._sent = True
        try:
            return self._convert(b"".join(parts))
        except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
            raise UpstreamProtocolError(f"The engine's answer is not what was asked for: {error}") from error


class Converter(Protocol):
    """What becomes of a stream's events, in order."""

    def convert(self, events: bytes) -> bytes:
        """Whole events, each with its blank line, to those that are sent instead."""
        ...

    def end(self) -> bytes:
        """What is sent after the last of them."""
        ...


class Rewritten:
    """An event stream whose events pass through a converter, as they come, wherever the pieces of the body end."""

    def __init__(self, body: Body, converter: Converter) -> None:
        self._body = body
        self._converter = converter
        self._rest = b""
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            try:
                data = self._feed(await self._body.__anext__())
            except StopAsyncIteration:
                self._ended = True
                data = self._rest + self._converter.end()
            if data:
                return data
        raise StopAsyncIteration

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # rewritten anyway
        def rewritten(data: bytes) -> Coroutine[Any, Any, None] | None:
            whole = self._feed(data)
            return write(whole) if whole else None

        await self._body.pump(rewritten)
        if rest := self._rest + self._converter.end():
            waits = write(rest)
            if waits is not None:
                await waits

    async def aclose(self) -> None:
        await self._body.aclose()

    def _feed(self, data: bytes) -> bytes:
        if b"\r" in data:  # in JSON it would be escaped: it is part of a line's end alone
            data = data.replace(b"\r", b"")
        data = self._rest + data
        end = data.rfind(BORDER) + len(BORDER) if BORDER in data else 0
        data, self._rest = data[:end], _bounded(data[end:])
        if not data:
            return b""
        try:
            return self._converter.convert(data)
        except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
            raise UpstreamProtocolError(f"The engine sent an event that cannot be read: {error}") from error


class WithoutPreface:
    """An event stream without the events at its start that have `mark` in them; after them, the body's own bytes."""

    def __init__(self, body: Body, mark: bytes) -> None:
        self._body = body
        self._mark = mark
        self._rest = b""
        self._begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._begun:
            try:
                data = self._begin(await self._body.__anext__())
            except StopAsyncIteration:
                self._begun = True
                data = self._rest
            if data:
                return data
        return await self._body.__anext__()

    async def pump(self, write: Write, frame: Frame | None = None) -> None:
        def forward(data: bytes) -> Coroutine[Any, Any, None] | None:
            if self._begun:
                return write(data)
            rest = self._begin(data)
            return write(rest) if rest else None

        await self._body.pump(forward, frame)
        if self._rest:
            waits = write(self._rest)
            if waits is not None:
                await waits

    async def aclose(self) -> None:
        await self._body.aclose()

    def _begin(self, data: bytes) -> bytes:
        data, self._rest = self._rest + data, b""
        while not self._begun:
            end = data.find(BORDER) + len(BORDER)
            if end < len(BORDER):
                self._rest = _bounded(data)
                return b""
            if self._mark in data[:end]:
                data = data[end:]
            else:
                self._begun = True
        return data


class UsageAtTheEnd:
    """Usage as OpenAI has it: one chunk of its own, with no choices, before `[DONE]`.

    Engines that put it on the last chunk of each choice, or send it once a choice, or leave `[DONE]` out, are
    bridged: tokens of all choices are added up, where `n` of them share a prompt. Events without usage pass
    untouched. `each` rewrites every event, where one must be, or drops it. With `adds_done` a stream that ended
    with its usage gets the `[DONE]` that the engine leaves out; one without (it broke) ends as it ends.
    """

    def __init__(self, *, n: int = 1, adds_done: bool = False, each: Callable[[bytes], bytes] | None = None) -> None:
        self._n = n
        self._adds_done = adds_done
        self._each = each
        self._last: dict[str, msgspec.Raw] = {}
        self._usage: dict[str, Any] | None = None

    def convert(self, events: bytes) -> bytes:
        if self._each is None and _USAGE not in events and DONE not in events:
            return events
        return b"".join(map(self._event, events.split(BORDER)[:-1]))

    def end(self) -> bytes:
        return self._usage_chunk() + DONE + BORDER if self._adds_done and self._usage is not None else b""

    def _event(self, event: bytes) -> bytes:
        if event == DONE:
            usage = self._usage_chunk()
            self._usage = None
            return usage + event + BORDER
        if _USAGE in event:
            event = self._take_usage(event)
            if not event:
                return b""
        if self._each is not None:
            event = self._each(event)
        return event + BORDER if event else b""

    def _take_usage(self, event: bytes) -> bytes:
        """The event without its usage; nothing when it has no choices either."""
        fields = _decode_event(event.removeprefix(b"data: "))
        usage = _decode_usage(fields.pop("usage"))
        if self._usage is None:
            self._usage = usage
        else:
            self._usage["prompt_tokens"] += usage["prompt_tokens"]
            self._usage["completion_tokens"] += usage["completion_tokens"]
        self._last = fields
        return b"" if bytes(fields.get("choices", b"[]")) == b"[]" else b"data: " + msgspec.json.encode(fields)

    def _usage_chunk(self) -> bytes:
        usage = self._usage
        if usage is None:
            return b""
        # Each choice counted its prompt.
        usage["prompt_tokens"] //= self._n
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        kept = ("id", "object", "created", "model", "system_fingerprint")
        fields: dict[str, object] = {key: self._last[key] for key in kept if key in self._last}
        fields |= {"choices": [], "usage": usage}
        return b"data: " + msgspec.json.encode(fields) + BORDER


def _bounded(event: bytes) -> bytes:
    """The begin of an event, which is held until its end comes."""
    if len(event) > _MAX_EVENT_BYTES:
        raise UpstreamProtocolError(f"The engine sent an event of more than {_MAX_EVENT_BYTES} bytes.")
    return event


def as_json(response: OpenAIResponse, collect: Callable[[bytes], bytes]) -> OpenAIResponse:
    """A streamed answer, collected into the whole one that the client asked for."""
    headers = [(name, value) for name, value in response.headers if name not in {b"content-type", b"content-length"}]
    headers.append((b"content-type", b"application/json"))
    return OpenAIResponse(response.status, headers, Whole(response.body, collect))
