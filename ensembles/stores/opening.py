"""The kinds of vector stores, by what their URLs begin with; each is imported when it is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from ensembles.stores.store import Store

STORES = {
    "": "ensembles.stores.lancedb:LanceStore",
    "s3": "ensembles.stores.lancedb:LanceStore",
    "gs": "ensembles.stores.lancedb:LanceStore",
    "az": "ensembles.stores.lancedb:LanceStore",
    "postgresql": "ensembles.stores.pgvector:PostgresStore",
}
"""Scheme to class; a folder's path has none."""


def open_store(url: str) -> Store:
    """The store at a URL or in a folder. Nothing is read or connected to before it is used.

    Raises `ValueError` for a scheme that is not in `STORES`.
    """
    scheme = urlsplit(url).scheme
    if scheme not in STORES:
        schemes = ", ".join(f"{known}://" for known in STORES if known)
        raise ValueError(f"'{scheme}://' is no vector store: give a folder, or a URL with one of {schemes}.")
    module, name = STORES[scheme].split(":")
    return cast("Store", getattr(import_module(module), name)(url))
