"""A tensor model that a worker runs, seen from a server process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from backends.config import ModelConfig
from backends.errors import ModelNotReady, Unavailable
from backends.model import Capability, Endpoint, Endpoints, InferRequest, Models, Responses, State, legible
from backends.statistics import ModelStatistics
from backends.worker.frames import heads
from backends.worker.messages import Infer
from backends.worker.upstream import Upstream

_STATISTICS_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class WorkerModel:
    """A `TensorModel` in front of its hosts: one, or the old and the new one while a model is replaced.

    How many requests run at once is the batcher's to say, so that `parallelism` is None.
    """

    parallelism: int | None = None
    is_listenable = True
    """What `infer` returns is `Listenable`."""

    def __init__(
        self,
        config: ModelConfig,
        endpoints: Endpoints,
        models: Models,
        capabilities: frozenset[Capability] = frozenset(),
    ) -> None:
        self.config = config
        self.capabilities = capabilities
        self.held = 0
        self._endpoints = endpoints
        self._models = models
        self._seen: tuple[Endpoint, ...] = ()
        self._upstreams: dict[str, Upstream] = {}
        self._retired: list[Upstream] = []
        self._is_closed = False
        with suppress(RuntimeError):  # no event loop yet: whoever asks first connects
            self._follow()

    def infer(self, request: InferRequest) -> Responses:
        config = self.config
        infer = Infer(
            0,
            config.name,
            config.version,
            legible(request.id),
            heads(request.inputs),
            request.outputs,
            request.parameters,
            request.priority,
            request.timeout_us,
            request.sequence_id,
            request.sequence_start,
            request.sequence_end,
            0,
            request.traceparent,
            traced=request.trace is not None,
        )
        return self._upstream().infer(infer, request)

    async def statistics(self) -> ModelStatistics:
        self._follow()
        upstreams = [upstream for upstream in self._upstreams.values() if upstream.is_connected or upstream.is_ready]
        if not upstreams:
            raise Unavailable(f"The model '{self.config.name}' has no process that could tell its statistics.")
        total = ModelStatistics()
        try:
            async with asyncio.timeout(_STATISTICS_SECONDS):
                for told in await asyncio.gather(*(upstream.statistics() for upstream in upstreams)):
                    total.merge(told)
        except TimeoutError as error:
            text = f"The model '{self.config.name}' told no statistics within {_STATISTICS_SECONDS:g} s."
            raise Unavailable(text) from error
        return total

    def ready(self) -> bool:
        self._follow()
        return any(upstream.is_ready for upstream in self._upstreams.values())

    def work(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for upstream in (*self._upstreams.values(), *self._retired):
            counts[upstream.address] = counts.get(upstream.address, 0) + len(upstream.requests) + self.held
        return counts

    def connections(self) -> tuple[int, int]:
        connected = [upstream for upstream in self._upstreams.values() if upstream.is_connected]
        in_use = sum(1 for upstream in connected if upstream.requests)
        return in_use, len(connected) - in_use

    def close(self) -> None:
        """Whoever holds the model may still use it: a request under way in an ensemble does."""
        self._is_closed = True
        for upstream in self._upstreams.values():
            upstream.close()

    def _upstream(self) -> Upstream:
        """The host with the least work. Raises `ModelNotReady`."""
        self._follow()
        upstreams = self._upstreams
        if len(upstreams) == 1:
            (found,) = upstreams.values()
            if found.is_ready:
                return found
        else:
            ready = [upstream for upstream in upstreams.values() if upstream.is_ready]
            if ready:
                return min(ready, key=lambda upstream: len(upstream.requests))
        reasons = ", ".join(upstream.reason for upstream in upstreams.values()) or "it has no process"
        raise ModelNotReady(
            f"The model '{self.config.name}' is not ready: {reasons}.", retry_after_seconds=_RETRY_SECONDS
        )

    def _follow(self) -> None:
        """Have a connection to each endpoint of the last snapshot."""
        current = self._endpoints.current
        if current is self._seen:
            return
        loop = asyncio.get_running_loop()
        self._seen = current
        # One that is drained gets no new work, unless there is no other one: a request under way may have steps to go.
        serving = [one for one in current if one.state is not State.DRAINING] or list(current)
        wanted = {endpoint.address: endpoint for endpoint in serving}
        for address in self._upstreams.keys() - wanted.keys():
            upstream = self._upstreams.pop(address)
            upstream.close()
            self._retired.append(upstream)
        self._retired = [upstream for upstream in self._retired if upstream.requests]
        for address, endpoint in wanted.items():
            if address not in self._upstreams:
                self._upstreams[address] = Upstream(address, self.config.name, self._models, loop)
            self._upstreams[address].expect(endpoint.state is State.READY)
