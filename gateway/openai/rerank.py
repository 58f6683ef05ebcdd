"""Rerank and score, under the paths of Cohere, Jina and vLLM."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, TEXT, TEXTS, Operation

RERANK = Dialect("rerank", Capability.RERANK)
SCORE = Dialect("score", Capability.SCORE)

_RERANK_BODY = {
    "model": MODEL,
    "query": TEXT,
    "documents": {"type": "array", "items": {"anyOf": [TEXT, {"type": "object"}]}, "minItems": 1},
    "top_n": {"type": "integer", "minimum": 1},
}
_SCORE_BODY = {"model": MODEL, "text_1": TEXTS, "text_2": TEXTS}

OPERATIONS = (
    *(
        Operation(
            path, RERANK, "Order documents by relevance to a query", _RERANK_BODY, ("model", "query", "documents")
        )
        for path in ("/v1/rerank", "/rerank", "/v2/rerank")
    ),
    *(
        Operation(path, SCORE, "Score pairs of texts", _SCORE_BODY, ("model", "text_1", "text_2"))
        for path in ("/v1/score", "/score")
    ),
)
