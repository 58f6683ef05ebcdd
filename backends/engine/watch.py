"""What is known of an endpoint from its own health route, and the watcher of endpoints that we did not start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from backends.engine.probe import Probe
from backends.errors import ServingError
from backends.model import State

_logger = logging.getLogger(__name__)

# A health route says little; the list of models of a hosted server names hundreds.
_BODY_LIMIT_BYTES = 4 * 1024 * 1024
_REMOTE_HEALTH = "/health"
# Servers of other people are asked less often while all is well: each request that fails tells as much.
_REMOTE_CALM_FACTOR = 5
_SETTLED = frozenset({State.READY, State.UNHEALTHY, State.FAILED, State.STOPPED})


@dataclass(frozen=True, slots=True)
class Patience:
    """How often an endpoint is asked, and how much is borne before something is done about it."""

    interval_seconds: float = 1.0
    timeout_seconds: float = 5.0
    unhealthy_after: int = 3
    """Failures in a row that make an endpoint UNHEALTHY: it gets no new requests."""
    hung_after: int = 6
    """Failures in a row after which an engine that we started is killed."""
    max_restarts: int = 5
    """Restarts without a stable READY period between them."""
    max_first_restarts: int = 2
    """As `max_restarts`, for an engine that has never been ready: its arguments are wrong, most likely."""
    stable_seconds: float = 60.0
    """READY for so long forgets the crashes before it."""
    first_delay_seconds: float = 0.2
    longest_delay_seconds: float = 30.0
    grace_seconds: float = 10.0
    """Between SIGTERM and SIGKILL."""


class Status:
    """What was last seen of one endpoint; `changed`, which its reader clears, is set whenever it differs."""

    __slots__ = (
        "_changed",
        "_draining",
        "_name",
        "context_length",
        "document",
        "reason",
        "restarts",
        "settled",
        "state",
    )

    def __init__(self, name: str, changed: asyncio.Event, context_length: int | None = None) -> None:
        self.state = State.STARTING
        self.reason = ""
        self.restarts = 0
        self.context_length = context_length
        self.document = ""
        """A worker's completed configuration, once it was READY: Triton's JSON of it."""
        self.settled = False
        """Whether it has been ready or has failed once, or will do neither."""
        self._name = name
        self._changed = changed
        self._draining = False

    def enter(self, state: State, reason: str = "") -> None:
        """`reason` says why it is not ready, for people. DRAINING ends in STOPPED or FAILED only."""
        self._draining = self._draining or state is State.DRAINING
        if self._draining and state not in {State.STOPPED, State.FAILED}:
            state = State.DRAINING
        if (state, reason) == (self.state, self.reason):
            return
        if state is not self.state:
            level = logging.WARNING if reason else logging.INFO
            _logger.log(level, "%s: %s%s", self._name, state.value, f" ({reason})" if reason else "")
        self.state, self.reason = state, reason
        self.settled = self.settled or state in _SETTLED
        self._changed.set()

    def restarted(self) -> None:
        self.restarts += 1
        self._changed.set()

    def describe(self, context_length: int | None) -> None:
        if context_length is not None and context_length != self.context_length:
            self.context_length = context_length
            self._changed.set()


class FailedForGoodError(Exception):
    """A worker cannot load its model, and would not if it was started again. The message is the whole reason."""


class RemoteEndpoint:
    """A server that someone else runs, watched; never started, never stopped, never given up.

    With `readiness`, that route must answer 200. Without it any answer below 500 is a sign of life: hosted servers
    have no health route. With `described`, a route tells the model's configuration, of which a function makes ours.
    """

    def __init__(
        self,
        id: str,
        address: str,
        name: str,
        changed: asyncio.Event,
        patience: Patience,
        readiness: str | None = None,
        described: tuple[str, Callable[[str], str]] | None = None,
    ) -> None:
        self.id = id
        self.address = address
        self.metrics: str | None = None
        self.status = Status(name, changed)
        self._name = name
        self._patience = patience
        self._readiness = readiness
        self._described = described
        self._probe = Probe(address)

    def drain(self) -> None:
        """New requests stop; what is under way goes on."""
        self.status.enter(State.DRAINING)

    async def run(self) -> None:
        """Watch until cancelled."""
        status, patience, probe = self.status, self._patience, self._probe
        failures = 0
        try:
            while True:
                fault = await ask(probe, self._readiness or _REMOTE_HEALTH, patience.timeout_seconds, self._is_alive)
                if fault is None and status.state is not State.READY:
                    fault = await self._describe()
                if fault is None:
                    failures = 0
                    if status.state is not State.READY:
                        status.enter(State.READY)
                        if self._readiness is None:
                            status.describe(await context_length(probe, patience.timeout_seconds))
                else:
                    failures += 1
                    if status.state is not State.READY or failures >= patience.unhealthy_after:
                        status.enter(State.UNHEALTHY, fault)
                calm = status.state is State.READY and not failures
                await asyncio.sleep(patience.interval_seconds * (_REMOTE_CALM_FACTOR if calm else 1))
        except Exception as error:
            _logger.exception("%s: the watcher failed", self._name)
            status.enter(State.FAILED, f"the watcher failed: {error!r}")
        finally:
            probe.close()
            if status.state is not State.FAILED:
                status.enter(State.STOPPED)

    async def _describe(self) -> str | None:
        """What is wrong with what the server tells of the model, None where nothing is."""
        if self._described is None:
            return None
        route, ours = self._described
        told = await configuration(self._probe, route, self._patience.timeout_seconds)
        if told is None:
            return f"{route} told no configuration"
        try:
            self.status.document = ours(told)
        except ServingError as error:
            return error.message
        return None

    def _is_alive(self, code: int) -> bool:
        return code < 500 if self._readiness is None else code == 200


async def ask(probe: Probe, path: str, timeout_seconds: float, alive: Callable[[int], bool]) -> str | None:
    """What is wrong with the endpoint, None if its status code is `alive`."""
    try:
        code, _ = await probe.get(path, timeout_seconds, _BODY_LIMIT_BYTES)
    except ServingError as error:
        return error.message
    return None if alive(code) else f"{path} answered {code}"


async def ask_worker(probe: Probe, path: str, timeout_seconds: float) -> str | None:
    """As `ask`. Raises `FailedForGoodError` where the worker says that it has."""
    try:
        code, body = await probe.get(path, timeout_seconds, _BODY_LIMIT_BYTES)
        if code == 500:
            raise FailedForGoodError(msgspec.json.decode(body, type=_Failure).error)
    except ServingError as error:
        return error.message
    except msgspec.DecodeError:
        return f"{path} answered 500"
    return None if code == 200 else f"{path} answered {code}"


async def configuration(probe: Probe, path: str, timeout_seconds: float) -> str | None:
    """What a worker says its model's configuration is, in Triton's JSON; None where it does not answer."""
    try:
        code, body = await probe.get(path, timeout_seconds, _BODY_LIMIT_BYTES)
        return body.decode() if code == 200 else None
    except (ServingError, UnicodeDecodeError):
        return None


async def context_length(probe: Probe, timeout_seconds: float) -> int | None:
    """The model's context in tokens as `/v1/models` tells it: vLLM's `max_model_len`, llama.cpp's `n_ctx_train`."""
    try:
        _, body = await probe.get("/v1/models", timeout_seconds, _BODY_LIMIT_BYTES)
        entry = msgspec.json.decode(body, type=_Models).data[0]
    except (ServingError, msgspec.DecodeError, IndexError):
        return None
    return entry.max_model_len or (entry.meta and entry.meta.n_ctx_train) or None


class _Failure(msgspec.Struct):
    error: str


class _Meta(msgspec.Struct):
    n_ctx_train: int | None = None


class _Model(msgspec.Struct):
    max_model_len: int | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []
