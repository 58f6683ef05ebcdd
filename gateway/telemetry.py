"""What one server process counts of its requests, from the marks that each of them sets as it goes.

Plain numbers and no locks: everything here runs on one event loop. The supervisor asks for `Telemetry.payload`
and adds the processes up (`gateway/metrics.py`). A streamed chunk costs one clock, one bisection and two
additions; a request costs a few clocks and dictionary look-ups.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import count
from time import monotonic
from typing import Protocol

import msgspec

from backends.errors import ServingError
from backends.model import Route
from backends.statistics import ModelStatistics
from gateway.histogram import Histogram
from gateway.pipeline_metrics import PipelineTally
from gateway.tenant_metrics import Tallies, Tally

UNKNOWN = "unknown"
"""The model label of what names no model that the registry has: clients must not be able to make labels."""

CLIENT_CLOSED_REQUEST = 499
"""The status counted when the client left before an answer began (nginx's number; HTTP has none)."""

REROUTINGS = ("retries", "hedges", "resumes", "ejections")
"""What `Route` counts."""

QUEUE_WAIT_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TTFT_BOUNDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0)
INTER_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
OVERHEAD_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_LAG_INTERVAL_SECONDS = 0.5
_LAG_WINDOW_SAMPLES = 60
_REQUEST_ID_BYTES = 128
_VISIBLE = bytes(range(0x21, 0x7F))


class ModelMetrics(msgspec.Struct):
    """One model's numbers in one process. `in_flight` and `queued` are of this moment; the rest only grows."""

    name: str
    in_flight: int = 0
    queued: int = 0
    requests: dict[tuple[str, int], int] = {}
    """By (endpoint, status)."""
    disconnects: dict[str, int] = {}
    """By phase: queued, before_first_byte, streaming."""
    errors: dict[str, int] = {}
    """By `error_kind`."""
    fallbacks: dict[str, int] = {}
    """By the model that was asked instead."""
    rerouted: dict[str, int] = {}
    """What was done for requests whose engine failed them: retries, hedges, resumes, ejections."""
    pipeline: PipelineTally | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_wait: Histogram = msgspec.field(default_factory=lambda: Histogram.empty(QUEUE_WAIT_BOUNDS))
    ttft: Histogram = msgspec.field(default_factory=lambda: Histogram.empty(TTFT_BOUNDS))
    inter_token: Histogram = msgspec.field(default_factory=lambda: Histogram.empty(INTER_TOKEN_BOUNDS))
    overhead: Histogram = msgspec.field(default_factory=lambda: Histogram.empty(OVERHEAD_BOUNDS))


class Payload(msgspec.Struct, frozen=True):
    """Everything that one process has counted, on its way to the supervisor."""

    models: list[ModelMetrics]
    connections: dict[str, tuple[int, int]]
    """Model → upstream connections (in use, idle)."""
    lag: Histogram
    lag_max_seconds: float
    log_lines_dropped: int
    tenants: dict[str, Tally] = {}
    statistics: dict[tuple[str, int], ModelStatistics] = {}
    """By name and version, of models that are counted where they are asked."""


class Log(Protocol):
    """Where finished requests are written down (`gateway/access_log.py`)."""

    dropped: int

    def append(self, exchange: Exchange) -> None: ...
    def close(self) -> None: ...


def error_kind(error: BaseException) -> str:
    """`upstream_timeout` of an `UpstreamTimeout`; `internal_error` of anything that is no `ServingError`."""
    return _snake_case(type(error).__name__) if isinstance(error, ServingError) else "internal_error"


class Telemetry:
    """One server process's counters. `connections` is asked at each scrape: model → (in use, idle).

    So is `statistics`: what models have done that are counted in this process.

    `start` needs the running loop; `stop` ends what `start` began and writes the last lines of `log`.
    """

    def __init__(
        self,
        connections: Callable[[], Mapping[str, tuple[int, int]]],
        log: Log,
        statistics: Callable[[], dict[tuple[str, int], ModelStatistics]] = dict,
    ) -> None:
        self.log = log
        self._statistics = statistics
        self.tenants = Tallies()
        self._connections = connections
        self._unknown = ModelMetrics(UNKNOWN)
        self._models = {UNKNOWN: self._unknown}
        self._lag = LoopLag()
        self._id_prefix = b"req_" + os.urandom(6).hex().encode()
        self._next_id = count().__next__

    def know(self, names: Iterable[str]) -> None:
        """Give models of these names their own labels. A name is not forgotten again: counters must not fall."""
        for name in names:
            if name not in self._models:
                self._models[name] = ModelMetrics(name)

    def model(self, name: str) -> ModelMetrics:
        return self._models.get(name, self._unknown)

    def request_id(self, offered: bytes | None) -> bytes:
        """The client's own id if it is visible ASCII of at most 128 bytes, else a new one."""
        if offered and len(offered) <= _REQUEST_ID_BYTES and not offered.translate(None, _VISIBLE):
            return offered
        # The prefix tells processes apart, the counter requests; a uuid4 costs several times as much.
        return b"%b%016x" % (self._id_prefix, self._next_id() << 32 | random.getrandbits(32))

    def begin(self, endpoint: str, method: str, path: str, client: str, offered_id: bytes | None) -> Exchange:
        """A request has arrived. `endpoint` is the API operation (`chat_completions`); `path` is without its query."""
        return Exchange(self, endpoint, method, path, client, self.request_id(offered_id))

    def payload(self) -> bytes:
        return msgspec.msgpack.encode(
            Payload(
                models=list(self._models.values()),
                connections=dict(self._connections()),
                lag=self._lag.histogram,
                lag_max_seconds=self._lag.max_seconds,
                log_lines_dropped=self.log.dropped,
                tenants=self.tenants.by_name,
                statistics=self._statistics(),
            )
        )

    def start(self) -> None:
        self._lag.start()

    def stop(self) -> None:
        self._lag.stop()
        self.log.close()


class Exchange:
    """One request from its arrival to its last byte: marks in time, counted when it ends. Holds no text of it.

    In order: `received`, `route`, `queue` (only where it must wait), `admit`, `sent`, `chunk` for each read of
    a stream, `answered`, then one of `done`, `disconnect` and `fail`; a second end is ignored, any other mark may
    be left out. `prompt_tokens` and `completion_tokens` are set once they are known, `tenant` where there is one.
    """

    __slots__ = (
        "_queued_at",
        "_route",
        "_telemetry",
        "_waited_seconds",
        "answered_at",
        "chunks",
        "client",
        "completion_tokens",
        "endpoint",
        "finish",
        "finished_at",
        "first_chunk_at",
        "last_chunk_at",
        "method",
        "metrics",
        "path",
        "prompt_tokens",
        "received_at",
        "request_id",
        "sent_at",
        "started_at",
        "status",
        "stream",
        "tenant",
    )

    def __init__(
        self, telemetry: Telemetry, endpoint: str, method: str, path: str, client: str, request_id: bytes
    ) -> None:
        self._telemetry = telemetry
        self.endpoint = endpoint
        self.method = method
        self.path = path
        self.client = client
        self.request_id = request_id
        self.metrics = metrics = telemetry.model(UNKNOWN)
        metrics.in_flight += 1
        self.started_at = self.received_at = monotonic()
        self.stream = False
        self._route: Route | None = None
        self.tenant = ""
        self.chunks = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self._queued_at = self._waited_seconds = 0.0
        self.sent_at = self.first_chunk_at = self.last_chunk_at = self.answered_at = self.finished_at = 0.0
        self.status = 0
        self.finish = ""

    def received(self) -> None:
        """The body is in: a slow upload is not the gateway's latency."""
        self.received_at = monotonic()

    def route(self, model: str, stream: bool) -> None:
        """The request names this model, known or not."""
        self.stream = stream
        self.metrics.in_flight -= 1
        self.metrics = metrics = self._telemetry.model(model)
        metrics.in_flight += 1

    def queue(self) -> None:
        """Every permit is taken: it waits from here to `admit`."""
        self._queued_at = monotonic()
        self.metrics.queued += 1

    def admit(self) -> None:
        """It has its permit."""
        metrics = self.metrics
        if self._queued_at:
            metrics.queued -= 1
            self._waited_seconds = monotonic() - self._queued_at
            self._queued_at = 0.0
        metrics.queue_wait.observe(self._waited_seconds)

    def took(self, route: Route) -> None:
        """It goes to a model, which fills in the route: for the second time where the first one failed it."""
        if self._route is not None:
            self._count_route(self._route)
        self._route = route

    def fall_back(self, model: str) -> None:
        """The model that it was sent to failed it before its answer began: this one is asked instead."""
        metrics = self.metrics
        if self._queued_at:
            metrics.queued -= 1
            self._queued_at = 0.0
        if self._route is not None:
            self._count_route(self._route)
            self._route = None
        metrics.fallbacks[model] = metrics.fallbacks.get(model, 0) + 1
        self.route(model, self.stream)

    def sent(self) -> None:
        """It goes to the engine now."""
        self.sent_at = monotonic()

    def chunk(self) -> float:
        """Bytes of a stream have come: once a read, however many events it carried. When, in `monotonic` seconds."""
        now = monotonic()
        self.chunks += 1
        if self.first_chunk_at:
            histogram = self.metrics.inter_token
            gap = now - self.last_chunk_at
            histogram.counts[bisect_left(histogram.bounds, gap)] += 1
            histogram.sum += gap
        else:
            self.first_chunk_at = now
            self.metrics.ttft.observe(now - self.started_at)
        self.last_chunk_at = now
        return now

    def answered(self) -> None:
        """The engine's answer is whole: time is the gateway's again."""
        self.answered_at = monotonic()

    def done(self, status: int) -> None:
        """The whole answer was handed to the client, an engine's own error answer included."""
        if self._end(status, "done") and self.answered_at:
            # A client that reads slowly shows here only in so far as it delays the last write.
            before = self.sent_at - self.received_at - self._waited_seconds
            self.metrics.overhead.observe(before + self.finished_at - self.answered_at)

    def disconnect(self, status: int = CLIENT_CLOSED_REQUEST) -> None:
        """The client has left; `status` is what it had been sent, if anything."""
        phase = "queued" if self._queued_at else "streaming" if self.first_chunk_at else "before_first_byte"
        if self._end(status, "disconnect"):
            disconnects = self.metrics.disconnects
            disconnects[phase] = disconnects.get(phase, 0) + 1

    def fail(self, error: BaseException, status: int) -> None:
        """The gateway gave up on it; `status` is what the client was sent (200 where its stream had begun)."""
        kind = error_kind(error)
        if self._end(status, kind):
            errors = self.metrics.errors
            errors[kind] = errors.get(kind, 0) + 1

    def _end(self, status: int, finish: str) -> bool:
        if self.finished_at:
            return False
        self.finished_at = monotonic()
        self.status = status
        self.finish = finish
        metrics = self.metrics
        metrics.in_flight -= 1
        if self._queued_at:
            metrics.queued -= 1
        if self._route is not None:
            self._count_route(self._route)
        key = (self.endpoint, status)
        metrics.requests[key] = metrics.requests.get(key, 0) + 1
        if self.prompt_tokens is not None:
            metrics.prompt_tokens += self.prompt_tokens
        if self.completion_tokens is not None:
            metrics.completion_tokens += self.completion_tokens
        if self.tenant:
            self._telemetry.tenants.of(self.tenant).count(
                status, self.prompt_tokens or 0, self.completion_tokens or 0, self._waited_seconds
            )
        self._telemetry.log.append(self)
        return True

    def _count_route(self, route: Route) -> None:
        if route.pipelined is not None:
            tally = self.metrics.pipeline = self.metrics.pipeline or PipelineTally()
            tally.count(route.pipelined)
        if not route.failures and not route.hedges:
            return
        rerouted = self.metrics.rerouted
        for kind in REROUTINGS:
            if count := getattr(route, kind):
                rerouted[kind] = rerouted.get(kind, 0) + count


class LoopLag:
    """How late the event loop calls back: sampled twice a second."""

    def __init__(self) -> None:
        self.histogram = Histogram.empty(LAG_BOUNDS)
        self._window_max = self._previous_max = 0.0
        self._window_samples = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def max_seconds(self) -> float:
        """The longest lag of the last 30 to 60 seconds, whoever asks and however often."""
        return max(self._window_max, self._previous_max)

    def start(self) -> None:
        # uvloop's own clock stands still while callbacks run: it cannot be asked for the lag.
        self._due = monotonic() + _LAG_INTERVAL_SECONDS
        self._timer = asyncio.get_running_loop().call_later(_LAG_INTERVAL_SECONDS, self._sample)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sample(self) -> None:
        lag = max(0.0, monotonic() - self._due)
        self.histogram.observe(lag)
        self._window_max = max(self._window_max, lag)
        self._window_samples += 1
        if self._window_samples == _LAG_WINDOW_SAMPLES:
            self._previous_max, self._window_max, self._window_samples = self._window_max, 0.0, 0
        self.start()


@cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
