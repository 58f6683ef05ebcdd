"""Embeddings."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import Dialect
from gateway.operations import MODEL, TEXTS, Operation

EMBEDDINGS = Dialect("embeddings", Capability.EMBEDDINGS)

OPERATIONS = (
    Operation("/v1/embeddings", EMBEDDINGS, "Embed texts", {"model": MODEL, "input": TEXTS}, ("model", "input")),
)
