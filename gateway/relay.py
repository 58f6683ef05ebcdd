"""The hot path: an answer's bytes to the client, as they come from the engine."""

from __future__ import annotations

from collections.abc import Coroutine
from time import monotonic
from typing import Any

import msgspec

from backends.engine.answer import whole_of
from backends.errors import UpstreamError, UpstreamProtocolError
from backends.model import Frame, OpenAIResponse
from gateway.errors import from_engine
from gateway.events import Events, usage_of
from gateway.reply import Reply
from gateway.telemetry import Exchange
from gateway.watch import Watch
from gateway.wire import Wire

_CONTENT_TYPE = b"content-type"


async def relay_stream(
    response: OpenAIResponse, events: Events, ends: tuple[bytes, ...], record: Exchange, watch: Watch, reply: Reply
) -> None:
    """Forward a stream that is whole when its last event starts with one of `ends`.

    Each read of the engine's socket is forwarded from within that read, with no task in between. Raises
    `UpstreamError` when the engine breaks off or reports an error; what came before has been sent by then.
    """
    wire = reply.wire
    feed = events.feed
    broken = UpstreamError("The engine reported an error in its stream.")

    def forward(data: bytes) -> Coroutine[Any, Any, None] | None:
        heard_at = record.chunk()
        whole = feed(data)
        if whole:
            if watch.first:
                return begin(whole)
            wire.chunk(whole)
            watch.heard_at = heard_at
            if events.failed:
                reply.told = True
                raise broken
            if wire.paused:
                return drained()
        return None

    async def begin(whole: bytes) -> None:
        watch.first = False
        if not reply.status:  # a keep-alive may have begun the stream
            await reply.start_stream(response.status, response.headers)
        wire.chunk(whole)
        if events.failed:
            reply.told = True
            raise broken
        await drained()

    async def drained() -> None:
        watch.on_engine = False  # it is the client that is slow
        await wire.drained()
        watch.heard_at = monotonic()
        watch.on_engine = True

    try:
        await response.body.pump(forward, _token_forwarder(record, watch, wire))
        if not events.failed and not events.ended_with(ends):
            raise UpstreamProtocolError("The engine ended its stream before the answer was complete.")
    finally:
        record.answered()
        record.prompt_tokens, record.completion_tokens = events.prompt_tokens, events.completion_tokens
    await drained()  # still watched: a client that reads no end of it must not stay for ever
    watch.close()
    if response.trailers:
        wire.trailers(response.trailers)
    await reply.end()
    record.done(reply.status)


def _token_forwarder(record: Exchange, watch: Watch, wire: Wire) -> Frame:
    """Forwards most of a stream: a token's event in the very chunk that it came in, nothing looked at any more."""
    chunk, frame = record.chunk, wire.frame

    def forward(framed: bytes, _start: int, _end: int) -> bool:
        if watch.first or not frame(framed):
            return False
        watch.heard_at = chunk()
        return True

    return forward


async def relay_whole(response: OpenAIResponse, record: Exchange, watch: Watch, reply: Reply) -> None:
    """Cases: an answer; an engine's error, put into the envelope; either, when a keep-alive began a stream already."""
    body = await whole_of(response.body)
    record.answered()
    status, headers = response.status, response.headers
    failure = from_engine(status, body) if status >= 400 else None
    if reply.status and failure is None:
        raise UpstreamProtocolError("The engine sent no event stream, though one was asked for.")
    watch.close()
    if failure is None:
        record.prompt_tokens, record.completion_tokens = usage_of(body)
        await reply.whole(status, headers, body)
    elif reply.status:
        await reply.end_with(failure)
    else:
        fields = [(name, value) for name, value in headers if name != _CONTENT_TYPE]
        await reply.whole(status, [*fields, (_CONTENT_TYPE, b"application/json")], msgspec.json.encode(failure))
    record.done(reply.status)
