"""The library of a process of the gateway: where its settings say, on the models of its registry."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from backends.errors import ModelNotReady
from backends.model import Capability
from ensembles.library import Library, Place
from gateway.registry import Registry
from gateway.settings import Settings


def library_of(settings: Settings, registry: Registry) -> Library:
    """Nothing is opened, or made, before it is asked for something. Who makes it closes it."""
    return Library(place_of(settings), registry, embedder_of(settings, registry), reranker=settings.reranker or "")


def is_installed(package: str = "sqlalchemy") -> bool:
    """Whether the packages are there that a library needs (the extra `rag`). Imports none of them."""
    return find_spec(package) is not None


def place_of(settings: Settings) -> Place:
    return Place(settings.data_dir, settings.database_url or "", settings.vector_store_url or "")


def embedder_of(settings: Settings, registry: Registry) -> Callable[[], str]:
    """Names the model of new vector stores. Raises `ModelNotReady` while there is none."""
    return lambda: settings.embedder or first_embedder(registry)


def first_embedder(registry: Registry) -> str:
    """The first model that embeds and generates nothing, else the first that embeds. Raises `ModelNotReady`."""
    able = [
        (Capability.CHAT in entry.model.capabilities, name)
        for name, entry in registry.entries().items()
        if entry.model is not None and Capability.EMBEDDINGS in entry.model.capabilities
    ]
    if not able:
        raise ModelNotReady("No model that embeds is loaded.")
    return min(able)[1]
