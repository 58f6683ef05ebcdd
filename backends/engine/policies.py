"""Which replica takes a request: one class a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from backends.engine.replica import Replica
from backends.engine.routing import Routing
from backends.model import OpenAIRequest


class Policy(Protocol):
    """Chooses among replicas, and learns from answers."""

    name: str

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:
        """One of `replicas` (two at least; ready, and not tried yet for this request), and why in a word or two."""
        ...

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        """The answer is whole: `cached_tokens` of its prompt were in the replica's prefix cache."""
        ...


class RoundRobin:
    """One after the other."""

    name = "round_robin"

    def __init__(self, routing: Routing) -> None:  # noqa: ARG002  # every policy's
        self._turn = 0

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:  # noqa: ARG002
        self._turn += 1
        return replicas[self._turn % len(replicas)], "its turn"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        pass


_POLICIES: dict[str, Callable[[Routing], Policy]] = {"round_robin": RoundRobin}


def policy(routing: Routing) -> Policy:
    """The policy that a model's configuration chooses."""
    return _POLICIES.get(routing.routing_policy, RoundRobin)(routing)
