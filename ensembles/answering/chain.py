"""What turns share: the steps of a recipe, the generator behind them, and how a turn goes through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from backends.errors import InvalidRequest
from backends.model import OpenAIModel, OpenAIRequest, OpenAIResponse, Pipelined
from ensembles.answering import shelf, stages
from ensembles.answering.answer import Cited
from ensembles.answering.chat_request import Fields, limit, write
from ensembles.answering.generation import generate
from ensembles.answering.recipe import Recipe
from ensembles.answering.search_options import Search
from ensembles.records.rows import VectorStore
from ensembles.step import Surroundings, Turn
from ensembles.steps import cite
from ensembles.stores import filters

# How long a pipeline goes on with the stores that its names stood for, and for how many tenants.
_FOUND_SECONDS = 2.0
_MOST_FOUND = 1000


class House(Surroundings, Protocol):
    """What a chain may call: models by name, and a library that knows whose vector stores are whose."""

    @property
    def library(self) -> shelf.Shelf: ...


class Chain:
    """The steps of a recipe and the generator behind them, for whose permit a request waits unless it `is_permitted`.

    `own` names the store of the documents that came with it.

    Raises `InvalidRequest` naming a wrong option.
    """

    def __init__(
        self,
        recipe: Recipe,
        house: House,
        generator: Callable[[], OpenAIModel],
        *,
        own: str = "",
        is_permitted: bool = False,
    ) -> None:
        self.recipe = recipe
        self.generator = generator
        options = {name: recipe.options(name) for name in recipe.names}
        self._stages = stages.load(options, recipe.names, house)
        self._cite = cite.load(recipe.options("cite"), house)
        self._house = house
        self._is_permitted = is_permitted
        self._own = own
        self._found: dict[str, tuple[float, list[VectorStore]]] = {}

    async def turn(self, request: OpenAIRequest, messages: list[dict[str, Any]], query: str, search: Search) -> Turn:
        """A turn that is ready to be run.

        Raises `NotFound` for a store that is not there for the tenant, `InvalidRequest` where none is named.
        """
        condition = None if search.filters is None else filters.read(search.filters)
        began = monotonic()
        found = await self._stores(request.tenant, search.vector_store_ids)
        turn = Turn(request, messages, query, [store.id for store in found], condition)
        turn.timings["stores"] = monotonic() - began
        turn.embedder = next((store.embedder for store in found if store.embedder), "")
        turn.limit = search.max_num_results or self.recipe.top_k
        if (ranking := search.ranking_options) is not None:
            turn.score_threshold = ranking.score_threshold or 0.0
            turn.is_reranked = ranking.ranker != "none"
            if (hybrid := ranking.hybrid_search) is not None:
                turn.weights = hybrid.embedding_weight, hybrid.text_weight
                if not any(turn.weights):
                    raise InvalidRequest("'hybrid_search' has two weights of 0.", param="ranking_options")
        return turn

    async def retrieve(self, turn: Turn) -> Cited:
        """Find the passages. Raises what a step whose policy is to fail raises."""
        pipelined = turn.request.route.pipelined = Pipelined(turn.timings, turn.degraded)
        await self._stages.retrieve(turn)
        return Cited(turn, self._cite, pipelined)

    def abstains(self, cited: Cited) -> bool:
        """Whether what was found is too unlike the question to be answered from."""
        least = self.recipe.abstain_below
        if least is None:
            return False
        likeness = [score for passage in cited.turn.passages if (score := _likeness(passage.scores)) is not None]
        # Where only words were searched nobody knows.
        abstains = max(likeness) < least if likeness else not cited.turn.passages
        cited.pipelined.abstained = abstains
        return abstains

    async def answer(self, cited: Cited, fields: Fields, *, stream: bool) -> OpenAIResponse:
        """The generator's answer at its head, as it makes it. Its holder closes the body."""
        turn = cited.turn
        turn.output_tokens = limit(fields)
        await self._stages.prepare(turn)
        cited.asked()
        generator = self.generator()
        body = write(fields, generator.config.name, turn.prompt)
        return await generate(generator, turn.request, body, stream=stream, is_permitted=self._is_permitted)

    async def _stores(self, owner: str, ids: Sequence[str] | None) -> list[VectorStore]:
        library = self._house.library
        if ids:
            return await shelf.asked_for(library, owner, ids)
        if not self.recipe.stores:
            raise InvalidRequest("The file search names no vector store.", param="tools[0].vector_store_ids")
        found_at, found = self._found.get(owner, (0.0, []))
        if not found or monotonic() - found_at > _FOUND_SECONDS:
            found = await shelf.configured(library, owner, self.recipe.stores, self._own)
            if len(self._found) >= _MOST_FOUND:
                self._found.clear()
            self._found[owner] = monotonic(), found
        return found


def _likeness(scores: dict[str, float]) -> float | None:
    return scores.get("rerank", scores.get("dense"))
