"""Texts of all files on their way through an embedder: requests of many, a few at a time, so that it is never idle."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from backends.errors import Code, InferenceError, InvalidRequest, ModelNotFound, ServingError, Unavailable

PRIORITY = 2
"""Whoever asks a question goes first, where the embedder's batcher has levels of priority."""

Ask = Callable[[Sequence[str], str], Awaitable[list[bytes]]]
"""A vector of each text, by a model of this name, in one request."""

_UNDER_WAY = 2  # one runs, the next one waits for its end
_FIRST_TEXTS = 8
_MOST_TEXTS = 256
# A search that comes meanwhile waits for what is under way: so long a request is short enough for that, and has texts
# enough to keep several cores busy to its end (of 0.15 seconds, 6% fewer chunks a second on two).
_LONG_SECONDS = 0.25
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 2.0
_MOST_FAILURES = 6


@dataclass(slots=True)
class _Entry:
    """Texts of one caller, and how far they are."""

    texts: Sequence[str]
    done: asyncio.Future[None]
    next: int = 0
    vectors: list[bytes] = field(default_factory=list)
    open: int = 0


@dataclass(slots=True)
class _Queue:
    """What waits for one model. `texts` go into a request; `answered_at` is when the last one was."""

    entries: deque[_Entry] = field(default_factory=deque)
    senders: set[asyncio.Task[None]] = field(default_factory=set)
    texts: int = _FIRST_TEXTS
    answered_at: float = 0.0


_Part = tuple[_Entry, int, int]


class Embedder:
    """Collects the texts of all callers. Tasks that send live while there is something to send."""

    def __init__(
        self,
        ask: Ask,
        *,
        first_delay_seconds: float = _FIRST_DELAY_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._first_delay_seconds = first_delay_seconds
        self._queues: dict[str, _Queue] = {}

    async def embed(self, model: str, texts: Sequence[str]) -> list[bytes]:
        """A vector of each text. Cancelling it takes back what was not sent yet.

        Waits while the model is not there. Raises what it says of these texts: of a request with other callers' texts
        that it refuses, each is sent once more alone.
        """
        if not texts:
            return []
        queue = self._queues.setdefault(model, _Queue())
        entry = _Entry(texts, asyncio.get_running_loop().create_future(), vectors=[b""] * len(texts), open=len(texts))
        queue.entries.append(entry)
        wanted = len(queue.senders) + -(-len(texts) // queue.texts)
        while len(queue.senders) < min(wanted, _UNDER_WAY):
            sender = asyncio.create_task(self._send(model, queue))
            queue.senders.add(sender)
            sender.add_done_callback(queue.senders.discard)
        await entry.done
        return entry.vectors

    async def close(self) -> None:
        """Cancel all requests under way."""
        senders = [sender for queue in self._queues.values() for sender in queue.senders]
        for sender in senders:
            sender.cancel()
        if senders:
            await asyncio.wait(senders)

    async def _send(self, model: str, queue: _Queue) -> None:
        while parts := _take(queue):
            sent_at = self._clock()
            try:
                await self._send_parts(model, parts)
            except BaseException:
                for entry, _, _ in parts:
                    entry.done.cancel()
                raise
            # Its own time begins where that of the one before it ends.
            began_at, queue.answered_at = max(sent_at, queue.answered_at), self._clock()
            _adapt(queue, sum(end - start for _, start, end in parts), queue.answered_at - began_at)

    async def _send_parts(self, model: str, parts: Sequence[_Part]) -> None:
        """Send until it is answered or nobody wants it any more. What the model refuses is sent part by part."""
        failures = 0
        delay_seconds = self._first_delay_seconds
        while any(not entry.done.done() for entry, _, _ in parts):
            try:
                _give(parts, await self._ask([text for entry, a, b in parts for text in entry.texts[a:b]], model))
                return
            except ServingError as error:
                failures += not _is_passing(error)
                if len(parts) > 1 and isinstance(error, InvalidRequest):
                    for part in parts:
                        await self._send_parts(model, [part])
                    return
                if failures == _MOST_FAILURES or isinstance(error, InvalidRequest):
                    _fail(parts, error)
                    return
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)


def _is_passing(error: ServingError) -> bool:
    """Whether the model is not there now, rather than unable to do this."""
    if isinstance(error, InferenceError):
        return error.status in {Code.UNAVAILABLE, Code.NOT_FOUND}
    return isinstance(error, Unavailable | ModelNotFound)


def _take(queue: _Queue) -> list[_Part]:
    """Texts for the next request, in the order of their coming; those of callers who left are dropped."""
    parts: list[_Part] = []
    room = queue.texts
    while queue.entries and room:
        entry = queue.entries[0]
        if not entry.done.done():
            end = min(len(entry.texts), entry.next + room)
            parts.append((entry, entry.next, end))
            room -= end - entry.next
            entry.next = end
        if entry.done.done() or entry.next == len(entry.texts):
            queue.entries.popleft()
    return parts


def _give(parts: Sequence[_Part], vectors: Sequence[bytes]) -> None:
    place = 0
    for entry, start, end in parts:
        entry.vectors[start:end] = vectors[place : place + end - start]
        place += end - start
        entry.open -= end - start
        if not entry.open and not entry.done.done():
            entry.done.set_result(None)


def _fail(parts: Sequence[_Part], error: ServingError) -> None:
    for entry, _, _ in parts:
        if not entry.done.done():
            entry.done.set_exception(error)


def _adapt(queue: _Queue, count: int, seconds: float) -> None:
    if seconds > _LONG_SECONDS:
        queue.texts = max(1, queue.texts // 2)
    elif 2 * seconds < _LONG_SECONDS and count == queue.texts:
        queue.texts = min(_MOST_TEXTS, queue.texts * 2)
