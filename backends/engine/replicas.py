"""A model whose endpoints speak the OpenAI API: picks an endpoint, sends the bytes, returns at the head."""

from __future__ import annotations

from typing import Protocol

from backends.config import ModelConfig
from backends.engine.upstream import Pool
from backends.errors import ModelNotReady
from backends.model import Capability, Endpoint, Endpoints, Headers, OpenAIRequest, OpenAIResponse, State

_RESTART_SECONDS = 1.0


class Adapter(Protocol):
    """What one kind of engine needs changed, once a request: never a token."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest: ...
    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse: ...


class EngineModel:
    """An `OpenAIModel` in front of the ready endpoints of one model.

    `headers` go out with every request (a remote server's key, for instance). `parallelism` is how many requests
    the endpoints run at once, None where nobody knows.
    """

    def __init__(
        self,
        config: ModelConfig,
        endpoints: Endpoints,
        *,
        capabilities: frozenset[Capability],
        parallelism: int | None,
        adapter: Adapter | None = None,
        headers: Headers = (),
    ) -> None:
        self.config = config
        self.capabilities = capabilities
        self.parallelism = parallelism
        self._endpoints = endpoints
        self._adapter = adapter
        self._headers = headers
        self._pools: dict[str, Pool] = {}
        self._turn = 0

    def ready(self) -> bool:
        return any(endpoint.state is State.READY for endpoint in self._endpoints.current)

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        pool = self._pool(self._pick())
        adapter = self._adapter
        if adapter is not None:
            request = adapter.request(request)
        target = f"{request.path}?{request.query}" if request.query else request.path
        answer = await pool.send(request.method, target, request.headers, request.body)
        response = OpenAIResponse(answer.status, answer.headers, answer)
        return response if adapter is None else adapter.response(request, response)

    def connections(self) -> tuple[int, int]:
        """Upstream connections now: (in use, idle)."""
        idle = sum(pool.idle_count for pool in self._pools.values())
        return sum(pool.open_count for pool in self._pools.values()) - idle, idle

    def close(self) -> None:
        """Close the idle connections of every endpoint."""
        for pool in self._pools.values():
            pool.close()

    def _pick(self) -> Endpoint:
        ready = [endpoint for endpoint in self._endpoints.current if endpoint.state is State.READY]
        if not ready:
            states = sorted({endpoint.state.value for endpoint in self._endpoints.current}) or ["without an endpoint"]
            raise ModelNotReady(
                f"The model {self.config.name!r} is not ready: {', '.join(states)}.",
                retry_after_seconds=_RESTART_SECONDS,
            )
        self._turn += 1
        return ready[self._turn % len(ready)]

    def _pool(self, endpoint: Endpoint) -> Pool:
        pool = self._pools.get(endpoint.address)
        if pool is None:
            live = {endpoint.address for endpoint in self._endpoints.current}
            for address in self._pools.keys() - live:
                self._pools.pop(address).close()
            pool = Pool(endpoint.address, f"The engine of model {self.config.name!r}", self._headers)
            self._pools[endpoint.address] = pool
        return pool
