"""Embeddings."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, PROMPTS, Operation

EMBEDDINGS = Dialect("embeddings", Capability.EMBEDDINGS)

OPERATIONS = (
    Operation("/v1/embeddings", EMBEDDINGS, "Embed texts", {"model": MODEL, "input": PROMPTS}, ("model", "input")),
)
