"""The `rag` kind: steps prepare a turn, one model answers, and its answer is cited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from backends.config import ModelConfig
from backends.engine import inference, routing
from backends.engine.answer import Collected
from backends.engine.begun import Begun
from backends.engine.command import Command
from backends.engine.inference import Gate
from backends.engine.rewriting import Rewritten, Whole
from backends.errors import ModelNotReady, ServingError, UnsupportedOperation
from backends.model import (
    Capability,
    Endpoints,
    InferRequest,
    Models,
    OpenAIModel,
    OpenAIRequest,
    OpenAIResponse,
    is_stream,
)
from backends.statistics import ModelStatistics
from ensembles.answering import chat_request, rag_query, recipe
from ensembles.answering.chain import Chain, House
from ensembles.answering.cited_chat import CitedChunks, fixed, whole
from ensembles.answering.responding import respond
from ensembles.endpointless import Endpointless

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:  # noqa: ARG001  # every kind's
    """Nothing: it runs in the server process. Raises `InvalidRequest` for what is wrong in `pipeline.json`."""
    Pipeline(config, cast("House", None))
    return []


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> Pipeline:  # noqa: ARG001  # every kind's
    """A pipeline over `models`, which is the registry. Raises `InvalidRequest` as `launch` does."""
    return Pipeline(config, cast("House", models))


class Pipeline(Endpointless):
    """An `OpenAIModel`, and a `TensorModel`, made of a retrieval and the model that answers from it.

    Models are looked up by each request, so that it is always the version of now that is asked.
    """

    capabilities = frozenset({Capability.CHAT, Capability.RESPONSES, Capability.RETRIEVE})

    def __init__(self, config: ModelConfig, house: House) -> None:
        self.config = config
        self.session_header = routing.read(config).session_header.encode()
        self.counted = ModelStatistics()
        self.gate: Gate | None = None
        self._house = house
        self._recipe = recipe.read(config)
        self._chain = Chain(self._recipe, house, self._generator, own=config.name if self._recipe.documents else "")

    def ready(self) -> bool:
        """Whether its generator is: what else it asks it can do without, or says that it cannot."""
        try:
            return self._generator().ready()
        except ServingError:
            return False

    def lacking(self) -> ModelNotReady | None:
        try:
            return self._generator().lacking()
        except ServingError as error:
            return ModelNotReady(error.message)

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        """Answer a chat, a Responses request or a query. Cancelling it cancels what runs of it.

        Raises `InvalidRequest`, `NotFound`, and what a step that may not fail fails with.
        """
        match request.path:
            case "/v1/chat/completions":
                return await self._chat(request)
            case "/v1/responses":
                return await respond(self._chain, request)
            case "/v1/rag/query":
                cited, body = await rag_query.query(self._chain, request)
                return OpenAIResponse(200, [_JSON, *cited.headers()], Collected(body))
        raise UnsupportedOperation(f"The model '{self.config.name}' does not offer {request.path}.", param="model")

    def infer(self, request: InferRequest) -> Begun:
        return inference.infer(self, request)

    async def statistics(self) -> ModelStatistics:
        """Inferences of this server process; the supervisor adds up what all of them have."""
        return self.counted

    def _generator(self) -> OpenAIModel:
        return self._house.openai(self._recipe.generator)

    async def _chat(self, request: OpenAIRequest) -> OpenAIResponse:
        model = request.model
        asked = chat_request.read(request.body)
        turn = await self._chain.turn(request, asked.messages, asked.query, asked.wish)
        cited = await self._chain.retrieve(turn)
        if self._chain.abstains(cited):
            text = self._recipe.abstention
            body = fixed(text, model, cited, stream=request.stream, usage=asked.wants_usage, report=asked.reports)
            return OpenAIResponse(200, [_EVENTS if request.stream else _JSON, *cited.headers()], Collected(body))
        response = await self._chain.answer(cited, asked.fields, stream=request.stream)
        if response.status < 400:
            if is_stream(response.headers):
                response.body = Rewritten(response.body, CitedChunks(cited, report=asked.reports))
            else:
                response.body = Whole(response.body, whole(cited, report=asked.reports))
            response.headers = [
                *(field for field in response.headers if field[0] != b"content-length"),
                *cited.headers(),
            ]
        return response
