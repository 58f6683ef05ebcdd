"""A turn of a retrieval pipeline and its steps: each step reads what the ones before it left, and adds its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from backends.errors import ServingError
from backends.model import Models, OpenAIRequest
from ensembles.stores.filters import Filter
from ensembles.stores.store import Chunk, Hit


@dataclass(slots=True)
class Passage:
    """A chunk that was retrieved. `score` is between 0 and 1 once it was fused or reranked.

    `number` is the one that it has in the prompt, from 1 on, 0 before it stands there. `excerpt` is what of the chunk's
    text is to stand there, where that is not all of it.
    """

    chunk: Chunk
    score: float
    number: int = 0
    excerpt: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    """What each way gave it: `dense`, `words`, `fused`, `rerank`."""

    @property
    def text(self) -> str:
        """What a generator reads of it."""
        return self.excerpt or self.chunk.text


@dataclass(slots=True)
class Turn:
    """One question on its way to an answer.

    `messages` are the request's, decoded; `query` is the question as it is searched by. `stores` are the ids of the
    vector stores that may be searched. `limit` is how many passages are wanted, `weights` those of meaning and words
    where the request says them; not `is_reranked`: the fused order is wanted. `embedder` is the model that the stores'
    vectors are of; `embedded` is set once `vector` is there, or will not be. `prompt` are the messages for the
    generator, `output_tokens` how long its answer may become, None where the request does not say. `timings` are
    seconds by step, `degraded` says by step why it was done without.
    """

    request: OpenAIRequest
    messages: list[dict[str, Any]]
    query: str
    stores: list[str]
    condition: Filter | None = None
    limit: int = 10
    score_threshold: float = 0.0
    weights: tuple[float, float] | None = None
    is_reranked: bool = True
    embedder: str = ""
    embedded: asyncio.Event = field(default_factory=asyncio.Event)
    vector: bytes = b""
    passages: list[Passage] = field(default_factory=list)
    output_tokens: int | None = None
    prompt: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    degraded: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> list[Passage]:
        """The passages that are in the prompt, by their numbers."""
        return sorted((passage for passage in self.passages if passage.number), key=lambda passage: passage.number)


class Searchable(Protocol):
    """The vector stores that a step may search. All raise `ServingError`; cancelling one stops what it began."""

    async def dense(self, store: str, vector: bytes, limit: int, condition: Filter | None) -> list[Hit]: ...
    async def words(self, store: str, query: str, limit: int, condition: Filter | None) -> list[Hit]: ...
    async def embed(self, texts: Sequence[str], embedder: str = "") -> list[bytes]: ...


class Surroundings(Models, Protocol):
    """What a step may call: models by name, and the vector stores."""

    @property
    def library(self) -> Searchable:
        """Raises `Unavailable` where there is none."""
        ...

    def context_length(self, name: str) -> int | None:
        """How many tokens a model's prompt and answer may have together, None where nobody knows."""
        ...


class Step(Protocol):
    """One step, loaded once with a pipeline and run for every turn, by several turns at a time."""

    async def run(self, turn: Turn) -> None:
        """Do the step's work on the turn. Raises `ServingError`; cancelling it stops all that it started."""
        ...


def reason(error: ServingError) -> str:
    """An error in a word, for `Turn.degraded`."""
    return error.code or "failed"


class StepModule(Protocol):
    """`ensembles/steps/<name>.py`. Raises `InvalidRequest` for options that it does not know or cannot use."""

    def load(self, options: Mapping[str, Any], surroundings: Surroundings) -> Step: ...
