"""A stream that outlives its engine: what breaks off goes on in another one, from the text that was sent."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from backends.engine.journal import Journal, ReportedError
from backends.engine.replica import Replica
from backends.engine.seam import Seam, binding, least, shortened, stops
from backends.errors import ServingError, Unavailable, UpstreamError, UpstreamProtocolError
from backends.model import Capability, Frame, OpenAIRequest, Route, Write

if TYPE_CHECKING:
    from backends.engine.attempts import Attempts, Leg

_log = logging.getLogger(__name__)

RESUMED = b"x-tritium-resumes"
"""The trailer field that says how often a stream went on in another engine."""

_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
_BORDER = re.compile(rb"\r?\n\r?\n")
_BLANK_LINES = (b"\n\n", b"\n\r\n")
_MAX_EVENT_BYTES = 16 * 1024 * 1024
_TOKENIZE_SECONDS = 2.0

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Tokens(msgspec.Struct):
    count: int


_decode_tokens = msgspec.json.Decoder(_Tokens).decode


class Resumable:
    """The body of a stream among several replicas. Whole events pass, so that none is cut when its engine dies.

    Before the first event went out any stream is begun anew elsewhere; after it, one whose request and events so
    far are safe to go on with. All others raise what they broke by.
    """

    def __init__(self, attempts: Attempts, leg: Leg) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        """Of the answer; they are another engine's where one had to begin anew."""
        self.trailers: list[tuple[bytes, bytes]] = []
        self._attempts = attempts
        self._leg = leg
        request = attempts.request
        self._is_chunked = request.path in _PATHS
        is_resumable = attempts.model.routing.resume and self._is_chunked
        self._journal = Journal("" if is_resumable else "it is not to be resumed")
        self._tail = b""
        self._seam: Seam | None = None
        self._reported: ReportedError | None = None
        self._progress = 0
        self._has_spoken = False
        self._set_headers()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            leg = self._leg
            try:
                if self._reported is not None:
                    raise self._reported  # as all that breaks a stream
                data, leg.first = leg.first or await anext(leg.response.body, b""), b""
                if not data and not self._is_whole():
                    raise _unfinished()  # as all that breaks a stream
                if whole := self._feed(data):
                    return whole
            except (UpstreamError, asyncio.CancelledError) as error:
                await self._recover(self._fault(error))
                continue
            if not data:
                self._attempts.succeeded(leg)
                raise StopAsyncIteration

    async def pump(self, write: Write, frame: Frame | None = None) -> None:
        def forward(data: bytes) -> Coroutine[Any, Any, None] | None:
            whole = self._feed(data)
            waits = write(whole) if whole else None
            return waits if self._reported is None else _then_raise(waits, self._reported)

        keep = self._journal.keep

        def take(chunk: bytes, start: int, end: int) -> bool:
            assert frame is not None
            if frame(chunk, start, end):
                keep(chunk[start : end + 1])
                return True
            return False

        while True:
            leg = self._leg
            try:
                first, leg.first = leg.first, b""
                if first and (waits := forward(first)) is not None:
                    await waits
                await leg.response.body.pump(forward, take if frame is not None and self._seam is None else None)
                if not self._is_whole():
                    raise _unfinished()  # as all that breaks a stream
            except (UpstreamError, asyncio.CancelledError) as error:
                try:
                    await self._recover(self._fault(error))
                except ReportedError as reported:
                    if (waits := write(reported.event)) is not None:
                        await waits
                    raise
            else:
                self._attempts.succeeded(leg)
                return

    async def aclose(self) -> None:
        self._attempts.request.stall = None
        await self._leg.close()
        usage = self._journal.usage
        if usage is not None and usage.prompt_tokens_details is not None and self._seam is None:
            cached = usage.prompt_tokens_details.cached_tokens or 0
            self._attempts.learn(self._leg.replica, usage.prompt_tokens or 0, cached)

    def _feed(self, data: bytes) -> bytes:
        """The whole events that came, as they go to the client, up to an error of the engine's: then it is `reported`.

        Raises `UpstreamProtocolError` for an event over the limit.
        """
        if self._tail or not data.endswith(b"\n\n"):
            start = max(0, len(self._tail) - 2)  # a large event would else be searched once more with each read
            data = self._tail + data
            ends = [at + len(line) for line in _BLANK_LINES if (at := data.rfind(line, start)) >= 0]
            end = max(ends, default=0)
            data, self._tail = data[:end], data[end:]
            if len(self._tail) > _MAX_EVENT_BYTES:
                raise UpstreamProtocolError(f"The engine sent an event of more than {_MAX_EVENT_BYTES} bytes.")
        journal, seam = self._journal, self._seam
        if data and not self._has_spoken:
            self._has_spoken = True
            self._leg.replica.spoke()
        if not self._is_chunked:
            journal.has_begun = journal.has_begun or bool(data)
            return data
        out = []
        try:
            for event in _events(data):
                journal.note(event)
                out.append(event if seam is None else seam.convert(event))
        except ReportedError as error:
            self._reported = error
        if seam is not None and seam.is_over:
            journal.is_finished = True
        return b"".join(out)

    def _is_whole(self) -> bool:
        return not self._is_chunked or self._journal.is_done

    def _fault(self, error: UpstreamError | asyncio.CancelledError) -> UpstreamError:
        """What the stream broke by. Raises the cancellation if it is not our own doing."""
        if isinstance(error, UpstreamError):
            return error
        stalled = self._attempts.broken_off(error)
        if stalled is None:
            raise error
        return stalled

    async def _recover(self, fault: UpstreamError) -> None:
        """Have another replica go on. Raises `fault` where none can."""
        attempts, journal, leg = self._attempts, self._journal, self._leg
        await leg.close()
        self._tail = b""
        self._reported = None
        if isinstance(fault, ReportedError) and fault.is_final:
            raise fault
        if journal.size > self._progress:
            self._progress = journal.size
            attempts.progressed()
        attempts.fell(leg.replica, fault)
        request = await self._continuation(fault) if journal.has_begun else attempts.request
        try:
            self._has_spoken = False
            self._leg = leg = await attempts.depart(request)
            if leg.response.status >= 400:
                refusal = b"".join([part async for part in leg.response.body])
                raise UpstreamError(f"It answered {leg.response.status}: {refusal[:200]!r}")  # noqa: TRY301
        except (UpstreamError, Unavailable) as error:
            self._note(f"no other engine took it: {error.message}")
            raise fault from error
        if journal.has_begun:
            attempts.request.route.resumes += 1
            self.trailers[:] = [(RESUMED, b"%d" % attempts.request.route.resumes)]
        else:
            self._set_headers()

    async def _continuation(self, fault: UpstreamError) -> OpenAIRequest:
        """The request for the rest, and the seam that its answer passes. Raises `fault` where it is not safe."""
        journal, request, adapter = self._journal, self._attempts.request, self._attempts.model.adapter
        try:
            fields = _decode_fields(request.body)
            text = journal.text()
            unsafe = journal.unsafe or binding(fields)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._note("it cannot be read")
            raise fault from error
        if unsafe or adapter is None:
            self._note(unsafe or "the engine has no way")
            raise fault
        tokens = max(journal.tokens, await self._count(text))
        fields = adapter.limited(fields, request.path)
        left = None if journal.is_finished else shortened(fields, tokens)
        continued = adapter.continuation(least(fields) if left is None else left, request.path, text)
        if continued is None:
            self._note("the engine has no way")
            raise fault
        self._seam = Seam(journal.head(), text, tokens, stops(fields), is_over=left is None)
        if left is None and not journal.is_finished:
            self._seam.owed = self._seam.end("length")
        return replace(request, body=msgspec.json.encode(continued))

    def _note(self, reason: str) -> None:
        """Why the stream ends here, for the log and the decision log."""
        route = self._attempts.request.route
        route.failures.append(f"not resumed: {reason}")
        _log.warning("A stream of %s was not resumed: %s", self._attempts.model.config.name, reason)

    def _set_headers(self) -> None:
        route = self._attempts.request.route
        self.headers[:] = [*self._leg.response.headers, (b"trailer", RESUMED), *told(self._leg.replica, route)]

    async def _count(self, text: str) -> int:
        """How many tokens the text is, as a replica says that is ready; 0 where none can say."""
        model, request = self._attempts.model, self._attempts.request
        ready = [replica for replica in model.replicas.ready() if replica is not self._leg.replica]
        if not text or not ready or Capability.TOKENIZE not in model.capabilities:
            return 0
        body = msgspec.json.encode({"model": request.model, "prompt": text, "add_special_tokens": False})
        asked = OpenAIRequest("/tokenize", body, request.model, stream=False, headers=request.headers)
        try:
            async with asyncio.timeout(_TOKENIZE_SECONDS):
                answer = await model.send(ready[0], asked)
                try:
                    told = b"".join([part async for part in answer.body])
                finally:
                    await answer.body.aclose()
            return _decode_tokens(told).count if answer.status == 200 else 0
        except (ServingError, TimeoutError, msgspec.DecodeError):
            return 0


def _unfinished() -> UpstreamError:
    return UpstreamProtocolError("The engine ended its stream before the answer was complete.")


def _events(data: bytes) -> list[bytes]:
    """Whole events, each with the blank line that ends it."""
    ends = [match.end() for match in _BORDER.finditer(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


async def _then_raise(waits: Coroutine[Any, Any, None] | None, error: Exception) -> None:
    if waits is not None:
        await waits
    raise error


def told(replica: Replica, route: Route) -> list[tuple[bytes, bytes]]:
    """What the head of an answer says of its way: who gives it, and how often it was sent once more."""
    fields = [replica.field]
    if route.retries:
        fields.append((b"x-tritium-retries", b"%d" % route.retries))
    if route.hedges:
        fields.append((b"x-tritium-hedges", b"%d" % route.hedges))
    return fields
