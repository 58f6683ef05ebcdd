"""Retrieval without generation, for people who bring their own prompt."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, TEXT, Operation

RAG_QUERY = Dialect("rag_query", Capability.RETRIEVE)

OPERATIONS = (
    Operation(
        "/v1/rag/query",
        RAG_QUERY,
        "Find a pipeline's passages for a question",
        {
            "model": MODEL,
            "query": {**TEXT, "minLength": 1},
            "vector_store_ids": {"type": "array", "items": TEXT},
            "max_num_results": {"type": "integer", "minimum": 1, "maximum": 1000},
            "filters": {"anyOf": [{"type": "object"}, {"type": "null"}]},
            "ranking_options": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        },
        ("model", "query"),
    ),
)
