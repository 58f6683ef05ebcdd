"""Every kind of model: those of the backends, and the ensembles; each module imported when a model chooses it."""

from __future__ import annotations

import importlib
from typing import cast

from backends import kinds
from backends.kinds import Kind

KINDS = {**kinds.KINDS, "ensemble": "ensembles.graph", "rag": "ensembles.pipeline"}


def find_kind(backend: str) -> Kind:
    """The module of a backend. Raises `InvalidRequest` in Triton's words where there is none."""
    module = KINDS.get(backend)
    return kinds.find_kind(backend) if module is None else cast("Kind", importlib.import_module(module))
