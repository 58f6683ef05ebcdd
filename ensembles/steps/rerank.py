"""Orders passages anew by a model that reads question and passage together, and by those that it found best.

The second half is pseudo-relevance feedback on vectors (Rocchio 1971; Li et al., ACM TOIS 2023): what the best passages
have in common says more of what is looked for than the question alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from math import sqrt
from operator import mul
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ensembles.options import read
from ensembles.ranking import scores
from ensembles.step import Passage, Surroundings, Turn

# What the best passages have in common counts twice as much as the question: any share from 1 to 3 does as well.
_BEST = 2


class Options(msgspec.Struct, frozen=True):
    """`model` scores the first `candidates`, which stay before the others.

    `weight` is its share of their scores: 1 is its order alone, 0 the order that they had. After it the best `feedback`
    passages have a say, 0 for none of them: `feedback_weight` is the share of how near a passage is to question and
    best passages together.
    """

    model: str
    candidates: Annotated[int, Meta(ge=1, le=1000)] = 20
    weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    feedback: Annotated[int, Meta(ge=0, le=1000)] = 3
    feedback_weight: Annotated[float, Meta(ge=0, le=1)] = 1 / 3


def load(options: Mapping[str, Any], surroundings: Surroundings) -> Rerank:
    return Rerank(read(options, Options, "The step 'rerank'"), surroundings)


class Rerank:
    """Changes the order of `passages` and their scores."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings

    async def run(self, turn: Turn) -> None:
        options = self._options
        first, rest = turn.passages[: options.candidates], turn.passages[options.candidates :]
        if not first:
            return
        documents = [passage.chunk.text for passage in first]
        first = mix(first, await scores(self._surroundings, options.model, turn, documents), options.weight)
        if options.feedback:
            first = follow(first, turn.vector, options.feedback, options.feedback_weight)
        if rest:
            # The others keep their scores, and stay behind.
            for passage in first:
                passage.score = rest[0].score + (1 - rest[0].score) * passage.score
        turn.passages = [*first, *rest]


def mix(passages: Sequence[Passage], ranked: Sequence[float], weight: float) -> list[Passage]:
    """The passages by falling score: `weight` parts of the scores `ranked`, the rest of what they had.

    Both are stretched to span 0 to 1 first: a reranker's scores have a range of their own.
    """
    had = _stretched([passage.score for passage in passages])
    given = _stretched(ranked)
    for passage, score, old, new in zip(passages, ranked, had, given, strict=True):
        passage.scores["rerank"] = score
        passage.score = (1 - weight) * old + weight * new
    return sorted(passages, key=lambda passage: -passage.score)


def follow(passages: Sequence[Passage], vector: bytes, count: int, weight: float) -> list[Passage]:
    """The passages by falling score: `weight` parts of how near they are to `vector` and the first `count` together.

    They stay as they are where a vector is missing, or of another size than the others.
    """
    if not vector or any(len(passage.chunk.vector) != len(vector) for passage in passages):
        return list(passages)
    question = _unit(array("f", vector))
    vectors = [_unit(array("f", passage.chunk.vector)) for passage in passages]
    best = _unit([sum(numbers) for numbers in zip(*vectors[:count], strict=True)])
    aim = _unit([one + _BEST * other for one, other in zip(question, best, strict=True)])
    cosines = [sum(map(mul, aim, each)) for each in vectors]
    for passage, cosine, near in zip(passages, cosines, _stretched(cosines), strict=True):
        passage.scores["feedback"] = cosine
        passage.score = (1 - weight) * passage.score + weight * near
    return sorted(passages, key=lambda passage: -passage.score)


def _unit(numbers: Sequence[float]) -> list[float]:
    length = sqrt(sum(map(mul, numbers, numbers))) or 1.0
    return [number / length for number in numbers]


def _stretched(scores: Sequence[float]) -> list[float]:
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]
