"""A model whose endpoints speak the OpenAI API: one is asked as it is, among several a request finds its way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from backends.config import ModelConfig
from backends.engine import inference
from backends.engine.attempts import Attempts, Budget, whole_answer
from backends.engine.begun import Begun
from backends.engine.continuation import Fields
from backends.engine.hedge import Hedge
from backends.engine.inference import Gate
from backends.engine.policies import policy
from backends.engine.replica import Replica, Replicas
from backends.engine.routing import read
from backends.errors import ModelNotReady
from backends.model import Capability, Endpoints, Headers, InferRequest, OpenAIRequest, OpenAIResponse
from backends.statistics import ModelStatistics


class Adapter(Protocol):
    """What one kind of engine needs changed, once a request: never a token."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest: ...
    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse: ...
    def limited(self, fields: Fields, path: str) -> Fields:
        """The fields with the limit of tokens that the engine holds this request to, told or not."""
        ...

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        """The request for what follows `text`, which another engine has sent; None where it cannot be asked for."""
        ...


class EngineModel:
    """An `OpenAIModel`, and a `TensorModel`, in front of the endpoints of one model.

    `headers` go out with every request (a remote server's key, for instance). `parallelism` is how many requests
    the endpoints run at once, None where nobody knows; inferences pass the `gate`, where one is set. Raises
    `InvalidRequest` for wrong routing parameters.
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
        self.routing = read(config)
        self.session_header = self.routing.session_header.encode()
        self.adapter = adapter
        self.replicas = Replicas(config.name, endpoints, policy(self.routing), headers)
        self.budget = Budget(self.routing.retry_budget)
        self.hedge = Hedge()
        self.counted = ModelStatistics()
        self.gate: Gate | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def ready(self) -> bool:
        """Whether a request can be sent now, or is worth its wait for one of several endpoints that have served."""
        replicas = self.replicas
        return bool(replicas.ready()) or replicas.is_coming()

    def lacking(self) -> ModelNotReady | None:
        return None if self.replicas.ready() else self.replicas.not_ready()

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        replicas = self.replicas
        if replicas.count > 1 and request.body:  # what has none asks after something that one of them keeps
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.get_running_loop()  # which costs a system call (Python 3.11)
            if request.stream:
                return await Attempts(self, request, loop).answer()
            return await whole_answer(self, request, loop)
        replica = replicas.next()
        request.route.endpoint = replica.endpoint.id
        return await self.send(replica, request)

    def infer(self, request: InferRequest) -> Begun:
        return inference.infer(self, request)

    async def statistics(self) -> ModelStatistics:
        """Inferences of this server process; the supervisor adds up what all of them have."""
        return self.counted

    async def send(self, replica: Replica, request: OpenAIRequest) -> OpenAIResponse:
        """Ask this replica, and return at the head of its answer."""
        adapter = self.adapter
        if adapter is not None:
            request = adapter.request(request)
        target = f"{request.path}?{request.query}" if request.query else request.path
        answer = await replica.pool.send(request.method, target, request.headers, request.body)
        response = OpenAIResponse(answer.status, answer.headers, answer)
        return response if adapter is None else adapter.response(request, response)

    def work(self) -> Mapping[str, int]:
        """Requests under way, by the address of their endpoint."""
        return self.replicas.work()

    def connections(self) -> tuple[int, int]:
        """Upstream connections now: (in use, idle)."""
        return self.replicas.connections()

    def close(self) -> None:
        """Close the idle connections of every endpoint."""
        self.replicas.close()
