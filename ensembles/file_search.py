"""File search for any chat model: its answers to Responses requests with that tool, which few engines know."""

from __future__ import annotations

from typing import cast

from backends.model import Capability, Models, OpenAIModel, OpenAIRequest, OpenAIResponse
from ensembles.answering.chain import Chain, House
from ensembles.answering.recipe import Recipe
from ensembles.answering.responding import respond

_TOP_K = 10


def before(model: OpenAIModel, models: Models) -> FileSearch | OpenAIModel:
    """What answers in the place of a model; a pipeline searches by itself."""
    return model if Capability.RETRIEVE in model.capabilities else FileSearch(model, models)


class FileSearch:
    """A chat model with a search before each answer, for whoever holds a permit of the model's already.

    Raises `Unavailable` where there is no library.
    """

    def __init__(self, model: OpenAIModel, models: Models) -> None:
        house = cast("House", models)
        recipe = Recipe(model.config.name, reranker=house.library.reranker, top_k=_TOP_K)
        self._chain = Chain(recipe, house, lambda: model, is_permitted=True)

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        """Raises `InvalidRequest`, `NotFound` for a vector store that is not the tenant's."""
        return await respond(self._chain, request)
