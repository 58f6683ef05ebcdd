"""Reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): lists of hits, one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensembles.step import Passage
from ensembles.stores.store import Hit

_K = 60


@dataclass(frozen=True, slots=True)
class Ranking:
    """How what was found is put in order. Of a way with weight 0 nothing is asked.

    `score_threshold` is against the fused score: 1 for what is best in every way, at most 0.5 for what one of two
    ways alone has found.
    """

    score_threshold: float = 0.0
    dense_weight: float = 1.0
    words_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """What one way (`dense`, `words`) has found, best first, and how much it counts."""

    way: str
    weight: float
    hits: Sequence[Hit]


def fuse(lists: Sequence[Found], limit: int, score_threshold: float = 0.0) -> list[Passage]:
    """The best passages of all lists, best first. Scores are between 0 and 1, where 1 is the first of every list."""
    most = sum(found.weight for found in lists) / (_K + 1)
    passages: dict[tuple[str, int], Passage] = {}
    for found in lists:
        for rank, hit in enumerate(found.hits, 1):
            chunk = hit.chunk
            passage = passages.setdefault((chunk.file_id, chunk.ordinal), Passage(chunk, 0.0))
            passage.score += found.weight / (_K + rank) / most
            passage.scores[found.way] = max(hit.score, passage.scores.get(found.way, hit.score))
    # Ties are broken by the cosine, then by where the chunk stands: the order is the same whenever it is asked for.
    best = sorted(passages.values(), key=_place)
    kept = [passage for passage in best if passage.score >= score_threshold][:limit]
    for passage in kept:
        passage.scores["fused"] = passage.score = min(1.0, passage.score)
    return kept


def _place(passage: Passage) -> tuple[float, float, str, int]:
    return -passage.score, -passage.scores.get("dense", 0.0), passage.chunk.file_id, passage.chunk.ordinal
