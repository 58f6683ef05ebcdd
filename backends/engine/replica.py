"""One endpoint of a model as one server process knows it: its connections, and what it has under way there."""

from __future__ import annotations

from backends.engine.upstream import Pool
from backends.model import Endpoint, Endpoints, Load


class Replica:
    """Mutable; lives as long as its address is among the model's endpoints, and its streams beyond that."""

    __slots__ = ("_endpoints", "endpoint", "in_flight", "pool", "tokens_in_flight")

    def __init__(self, endpoint: Endpoint, pool: Pool, endpoints: Endpoints) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.in_flight = 0
        """Requests of this process."""
        self.tokens_in_flight = 0
        """Their prompt and output tokens, as far as they can be known before."""
        self._endpoints = endpoints

    @property
    def load(self) -> Load | None:
        """What the engine itself said last; None where it says nothing."""
        return self._endpoints.loads.get(self.endpoint.id)
