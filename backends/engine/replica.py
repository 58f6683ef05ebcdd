"""The endpoints of one model as one server process knows them: what it has under way there, which of them fail."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic
from typing import TYPE_CHECKING

from backends.engine.upstream import Pool
from backends.errors import ModelNotReady
from backends.model import Endpoint, Endpoints, Headers, Load, OpenAIRequest, State

if TYPE_CHECKING:
    from backends.engine.policies import Policy

RESTART_SECONDS = 1.0

# Failures in a row that take an endpoint out; one that cannot be reached is out at once.
_FAILURES = 3
_FIRST_BAN_SECONDS = 0.5
_LONGEST_BAN_SECONDS = 30.0
# What may yet become ready.
_COMING = frozenset({State.STARTING, State.RESTARTING, State.UNHEALTHY})


class Replica:
    """Mutable; lives as long as its address is among the model's endpoints, and its streams beyond that.

    Its health is what requests met with. One that fails is banned for a while that doubles each time; then one
    request may try (half open), and the next ones as soon as that has been answered.
    """

    __slots__ = (
        "_ban_seconds",
        "_banned",
        "_banned_until",
        "_endpoints",
        "_failures",
        "_trying",
        "endpoint",
        "field",
        "in_flight",
        "pool",
        "tokens_in_flight",
    )

    def __init__(
        self, endpoint: Endpoint, pool: Pool, endpoints: Endpoints, banned: set[Replica] | None = None
    ) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.field = (b"x-tritium-endpoint", endpoint.id.encode("ascii", "backslashreplace"))
        """The header field that tells who answers."""
        self.in_flight = 0
        """Requests of this process."""
        self.tokens_in_flight = 0
        """Their prompt and output tokens, as far as they can be known before."""
        self._endpoints = endpoints
        self._banned = set() if banned is None else banned
        self._failures = 0
        self._ban_seconds = 0.0
        self._banned_until = 0.0
        self._trying: OpenAIRequest | None = None

    @property
    def load(self) -> Load | None:
        """What the engine itself said last; None where it says nothing."""
        return self._endpoints.loads.get(self.endpoint.id)

    def admits(self, now: float) -> bool:
        return self not in self._banned or (self._trying is None and now >= self._banned_until)

    def take(self, request: OpenAIRequest) -> None:
        """A request goes there: until `release`."""
        self.in_flight += 1
        self.tokens_in_flight += request.prompt_tokens + request.output_tokens
        if self._banned and self in self._banned:
            self._trying = request

    def release(self, request: OpenAIRequest) -> None:
        self.in_flight -= 1
        self.tokens_in_flight -= request.prompt_tokens + request.output_tokens
        if self._trying is request:
            self._trying = None

    def succeeded(self) -> None:
        if self._failures:
            self._failures = 0
            self._ban_seconds = 0.0
            self._banned.discard(self)

    def spoke(self) -> None:
        """A token of an answer came: its ban is over, and one more failure brings it back, twice as long."""
        if self in self._banned:
            self._banned.discard(self)
            self._failures = _FAILURES - 1

    def failed(self, *, at_once: bool) -> bool:
        """Whether this failure bans it, which it does not do to one that is banned already."""
        self._failures += 1
        is_new = self not in self._banned
        if is_new and not at_once and self._failures < _FAILURES:
            return False
        self._ban_seconds = min(_LONGEST_BAN_SECONDS, self._ban_seconds * 2 or _FIRST_BAN_SECONDS)
        self._banned_until = monotonic() + self._ban_seconds
        self._banned.add(self)
        return is_new

    def retire(self) -> None:
        """Its endpoint is gone: what is under way there goes on, and tells nothing of the others."""
        self.pool.close()
        self._banned.discard(self)
        self._banned = set()

    def follow(self, endpoint: Endpoint) -> None:
        """The endpoint as it is now: a process that was started anew has not failed yet."""
        if endpoint.restarts != self.endpoint.restarts or (
            endpoint.state is State.READY and self.endpoint.state is not State.READY
        ):
            self.succeeded()
        self.endpoint = endpoint


class Replicas:
    """All replicas of one model, after the endpoints of the last snapshot."""

    def __init__(self, name: str, endpoints: Endpoints, policy: Policy, headers: Headers) -> None:
        self.policy = policy
        self._name = name
        self._endpoints = endpoints
        self._headers = headers
        self._seen: tuple[Endpoint, ...] = ()
        self._all: dict[str, Replica] = {}
        self._ready: list[Replica] = []
        self._banned: set[Replica] = set()
        self._has_served = False
        self._turn = 0

    def ready(self) -> list[Replica]:
        """Those whose endpoint is READY, in the order of the snapshot. Not to be changed."""
        current = self._endpoints.current
        if current is not self._seen:
            self._follow(current)
        return self._ready

    @property
    def count(self) -> int:
        return len(self._endpoints.current)

    def is_coming(self) -> bool:
        """Whether one of several that have served may be ready again before long: that is worth a wait."""
        return (
            self._has_served
            and len(self._endpoints.current) > 1
            and any(endpoint.state in _COMING for endpoint in self._endpoints.current)
        )

    def next(self) -> Replica:
        """One after the other: for what is not balanced. Raises `ModelNotReady`."""
        ready = self.ready()
        if not ready:
            raise self.not_ready()
        self._turn += 1
        return ready[self._turn % len(ready)]

    def choose(self, request: OpenAIRequest, avoided: Collection[Replica]) -> tuple[Replica, str] | None:
        """A ready replica by the policy, and why; None where there is none but those to be avoided.

        Banned ones are passed over as long as there is another.
        """
        ready = self.ready()
        if avoided or self._banned:
            now = monotonic()
            left = [replica for replica in ready if replica not in avoided]
            ready = [replica for replica in left if replica.admits(now)] or left
        if not ready:
            return None
        return self.policy.pick(ready, request) if len(ready) > 1 else (ready[0], "only")

    def not_ready(self) -> ModelNotReady:
        states = sorted({endpoint.state.value for endpoint in self._endpoints.current}) or ["without an endpoint"]
        return ModelNotReady(
            f"The model {self._name!r} is not ready: {', '.join(states)}.", retry_after_seconds=RESTART_SECONDS
        )

    def connections(self) -> tuple[int, int]:
        """Upstream connections now: (in use, idle)."""
        idle = sum(replica.pool.idle_count for replica in self._all.values())
        return sum(replica.pool.open_count for replica in self._all.values()) - idle, idle

    def work(self) -> dict[str, int]:
        """Requests under way, by the address of their endpoint."""
        return {
            address: max(replica.in_flight, replica.pool.open_count - replica.pool.idle_count)
            for address, replica in self._all.items()
        }

    def close(self) -> None:
        """Close the idle connections of every endpoint."""
        for replica in self._all.values():
            replica.pool.close()

    def _follow(self, current: tuple[Endpoint, ...]) -> None:
        before, self._all = self._all, {}
        for endpoint in current:
            replica = before.pop(endpoint.address, None)
            if replica is None:
                pool = Pool(endpoint.address, f"The engine of model {self._name!r}", self._headers)
                replica = Replica(endpoint, pool, self._endpoints, self._banned)
            replica.follow(endpoint)
            self._all[endpoint.address] = replica
        for gone in before.values():
            gone.retire()
        self._seen = current
        self._ready = [replica for replica in self._all.values() if replica.endpoint.state is State.READY]
        self._has_served = self._has_served or bool(self._ready)
