"""The access log: one JSON line a finished request, rendered and written in batches.

Lines carry what the request was and how it ended; never a prompt, a key, a query string or an unchecked name.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from time import monotonic

import msgspec

from gateway.telemetry import Exchange

_FLUSH_SECONDS = 0.2
_PENDING_LINES = 16384
_CLOSE_MILLISECONDS = 500
_PATH_CHARACTERS = 256


class NoLog:
    """The access log when it is off."""

    dropped = 0

    def append(self, exchange: Exchange) -> None:
        pass

    def close(self) -> None:
        pass


class AccessLine(msgspec.Struct, frozen=True):
    """One finished request, as the access log has it: one JSON object a line."""

    time: str
    request_id: str
    client: str
    method: str
    path: str
    model: str
    status: int
    stream: bool
    duration_ms: float
    ttft_ms: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish: str


class AccessLog:
    """The access log on a file descriptor: what has finished is rendered and written five times a second.

    Never waits for a reader that stands still: lines that find no room are dropped and counted. Each write is
    whole lines of at most PIPE_BUF bytes, so that the processes that share a pipe do not cut each other's lines.
    """

    def __init__(self, fd: int, pending_limit: int = _PENDING_LINES) -> None:
        self.dropped = 0
        self._pending_limit = pending_limit
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._pending: list[Exchange] = []
        self._unwritten = b""
        self._timer: asyncio.TimerHandle | None = None
        self._encoder = msgspec.json.Encoder()
        self._second = -1
        self._second_text = ""

    def append(self, exchange: Exchange) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)
        if len(self._pending) < self._pending_limit:
            self._pending.append(exchange)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Write what is left, as far as the reader takes it within a second."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._write(_CLOSE_MILLISECONDS)
        if not self._unwritten:
            self._render()
            self._write(_CLOSE_MILLISECONDS)

    def _flush(self) -> None:
        if not self._unwritten:
            self._render()
        self._write(0)
        more = self._unwritten or self._pending
        self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush) if more else None

    def _render(self) -> None:
        wall_clock = time.time() - monotonic()
        self._unwritten = self._encoder.encode_lines([self._line(each, wall_clock) for each in self._pending])
        self._pending.clear()

    def _write(self, patience_milliseconds: int) -> None:
        data, start = self._unwritten, 0
        try:
            while start < len(data) and self._poll.poll(patience_milliseconds):
                end = len(data)
                if end - start > select.PIPE_BUF:
                    end = data.rindex(b"\n", start, start + select.PIPE_BUF) + 1
                start += os.write(self._fd, data[start:end])
        except BlockingIOError:
            pass
        except OSError:  # the reader is gone or the disk is full: serving goes on
            self.dropped += data.count(b"\n", start)
            start = len(data)
        self._unwritten = data[start:]

    def _line(self, exchange: Exchange, wall_clock: float) -> AccessLine:
        first, started, finished = exchange.first_chunk_at, exchange.started_at, exchange.finished_at
        return AccessLine(
            time=self._time_text(finished + wall_clock),
            request_id=exchange.request_id.decode("ascii"),
            client=exchange.client,
            method=exchange.method,
            path=exchange.path[:_PATH_CHARACTERS],
            model=exchange.metrics.name,
            status=exchange.status,
            stream=exchange.stream,
            duration_ms=int((finished - started) * 1e6) / 1e3,
            ttft_ms=int((first - started) * 1e6) / 1e3 if first else None,
            prompt_tokens=exchange.prompt_tokens,
            completion_tokens=exchange.completion_tokens,
            finish=exchange.finish,
        )

    def _time_text(self, seconds: float) -> str:
        second = int(seconds)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._second_text}{int((seconds - second) * 1000):03d}Z"
