"""How well texts answer a question, by a model that reranks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backends.errors import UpstreamProtocolError
from backends.model import Capability, Models
from ensembles.asking import ask
from ensembles.step import Turn


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Answer(msgspec.Struct):
    results: list[_Result]


async def scores(models: Models, name: str, turn: Turn, texts: Sequence[str]) -> list[float]:
    """The score of each text for the turn's query. Raises what `ask` raises, and for a text without a score."""
    fields = {"model": name, "query": turn.query, "documents": texts}
    answer = await ask(models, Capability.RERANK, "/v1/rerank", fields, _Answer, turn.request)
    given = {result.index: result.relevance_score for result in answer.results}
    if given.keys() != set(range(len(texts))):
        raise UpstreamProtocolError(f"The model '{name}' has not scored every passage once.")
    return [given[i] for i in range(len(texts))]
