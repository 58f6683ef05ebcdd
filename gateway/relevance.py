"""How good an order of documents is, as trec_eval counts it, and how sure that is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import log2
from statistics import fmean
from typing import NamedTuple

_RESAMPLES = 2000
_TAIL = 0.025


class Estimate(NamedTuple):
    """A mean over questions and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def ndcg(found: Sequence[str], grades: Mapping[str, int], depth: int) -> float:
    """Normalised discounted cumulative gain (Järvelin, Kekäläinen 2002): a document gains its grade."""
    best = _discounted(sorted(grades.values(), reverse=True)[:depth])
    return _discounted([grades.get(document, 0) for document in found[:depth]]) / best if best else 0.0


def recall(found: Sequence[str], grades: Mapping[str, int], depth: int) -> float:
    """The share of the documents with a grade above 0 that is among the first `depth`."""
    wanted = {document for document, grade in grades.items() if grade > 0}
    return len(wanted.intersection(found[:depth])) / len(wanted) if wanted else 0.0


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value; the interval by the bootstrap (Efron 1979), the same each time."""
    draw = random.Random(0)  # noqa: S311  # no secret
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return Estimate(fmean(values), means[int(_TAIL * _RESAMPLES)], means[int((1 - _TAIL) * _RESAMPLES) - 1])


def _discounted(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(rank + 1) for rank, gain in enumerate(gains, 1))
