"""Late interaction (MaxSim): a query's token vectors against a passage's, which are kept for the next question.

Khattab and Zaharia, SIGIR 2020: a passage's vectors do not depend on the query. Questions over the same documents meet
the same passages, and to run these is nearly all of what a score costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from backends.config import ModelConfig
from backends.worker.loaders.arrays import Array
from backends.worker.messages import Metric, Metrics

# What Python keeps for a passage beside its vectors and ids, about.
_OVERHEAD_BYTES = 400

Tell = Callable[[Metrics], None]
Run = Callable[[Sequence[bytes]], Sequence[Array]]
"""The token vectors of each row of ids."""


class LateInteraction:
    """Scores pairs of token ids. `Text.passage_cache_bytes` bounds what is kept of passages.

    The ids are the key: what the tokenizer made of a text, its prompt and its cut included. Vectors are float16, kept
    or not, so that a score never tells; it differs by some 1e-5 from that of float32.
    """

    def __init__(self, config: ModelConfig, size_bytes: int, tell: Tell) -> None:
        self._size_bytes = size_bytes
        self._tell = tell
        self._labels = {"model": config.name, "version": str(config.version)}
        self._kept: OrderedDict[bytes, Array] = OrderedDict()
        self._used_bytes = 0
        self._hits = 0
        self._misses = 0

    def scores(self, queries: Sequence[bytes], passages: Sequence[bytes], run: Run) -> Array:
        """One score a row. `run` is called once, with each text that is needed once."""
        found = {ids: self._kept[ids] for ids in dict.fromkeys(passages) if ids in self._kept}
        missing = [ids for ids in dict.fromkeys(passages) if ids not in found]
        self._count(len(found), len(missing))
        texts = list(dict.fromkeys([*queries, *missing]))
        vectors = dict(zip(texts, run(texts), strict=True))
        for ids in found:
            self._kept.move_to_end(ids)
        for ids in missing:
            found[ids] = normalized(vectors[ids]).astype(np.float16)
            self._keep(ids, found[ids])
        whole = {ids: array.astype(np.float32) for ids, array in found.items()}
        pairs = zip(queries, passages, strict=True)
        return np.array([[_maxsim(vectors[query], whole[ids])] for query, ids in pairs], np.float32)

    def _keep(self, ids: bytes, vectors: Array) -> None:
        size_bytes = _size(ids, vectors)
        if size_bytes > self._size_bytes:
            return
        while self._used_bytes + size_bytes > self._size_bytes:
            self._used_bytes -= _size(*self._kept.popitem(last=False))
        self._kept[ids] = vectors
        self._used_bytes += size_bytes

    def _count(self, hits: int, misses: int) -> None:
        if not self._size_bytes:
            return
        self._hits += hits
        self._misses += misses
        counted = (("hits", "were kept", self._hits), ("misses", "had to be run", self._misses))
        self._tell(
            Metrics(
                [
                    Metric(
                        f"tritium_passage_cache_{name}_total",
                        "counter",
                        f"Passages whose token vectors {how}",
                        self._labels,
                        value,
                    )
                    for name, how, value in counted
                ]
            )
        )


def normalized(vector: Array) -> Array:
    """The vector, or each of several, with the length one."""
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.asarray(vector / np.maximum(norm, np.float32(1e-12)))


def _size(ids: bytes, vectors: Array) -> int:
    return len(ids) + vectors.nbytes + _OVERHEAD_BYTES


def _maxsim(query: Array, passage: Array) -> float:
    """The mean over the query's tokens of the best cosine among the passage's, which are unit vectors.

    Each token counts by the square of its vector's length: a model that was trained to pool its tokens makes those of
    words that say little short.
    """
    lengths = np.linalg.norm(query, axis=1)
    weights = lengths * lengths
    best = (query @ passage.T).max(axis=1) * lengths
    return float(best.sum() / max(weights.sum(), 1e-12))
