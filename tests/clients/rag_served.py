"""A gateway with a pipeline over two echo engines, and tenants with documents of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from tests.servers import Tritium, echo_repository, serving

TENANTS = """
[tenants.alice]
keys = ["alice-key"]
[tenants.bob]
keys = ["bob-key"]
"""
FRUIT = {
    "apples.md": "# Apples\n\nApples are red and round. They grow on trees.",
    "pears.md": "# Pears\n\nPears are green and long. They are sweet.",
    "boats.md": "# Boats\n\nBoats swim on water and are made of wood.",
}


@dataclass
class RagServed:
    server: Tritium
    alice: openai.OpenAI
    bob: openai.OpenAI
    store_id: str


def rag_repository(folder: Path, *, echo: dict[str, Any] | None = None, **recipe: Any) -> Path:
    """The pipeline `fruit` over an echo engine that says its question again, where markers may stand."""
    repository = echo_repository(folder, {"echo": echo or {}, "embedder": {}})
    version = repository / "fruit" / "1"
    version.mkdir(parents=True)
    (repository / "fruit" / "config.pbtxt").write_text('backend: "rag"\n')
    steps = {"prompt": {"place": "system"}}
    options = {"generator": "echo", "embedder": "embedder", "reranker": "embedder", "stores": ["fruit"], "steps": steps}
    (version / "pipeline.json").write_text(json.dumps({**options, **recipe}))
    return repository


def client(server: Tritium, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=30)


@contextmanager
def serving_rag(folder: Path, *flags: str, **recipe: Any) -> Iterator[RagServed]:
    keys = folder / "keys.toml"
    keys.write_text(TENANTS)
    repository = rag_repository(folder / "models", **recipe)
    flags = ("--api-key-file", str(keys), "--embedder", "embedder", *flags)
    with serving(repository, *flags) as server, client(server, "alice-key") as alice, client(server, "bob-key") as bob:
        yield RagServed(server, alice, bob, filled(alice))


def filled(user: openai.OpenAI, name: str = "fruit") -> str:
    """A vector store with all the fruit in it."""
    store = user.vector_stores.create(name=name)
    files = [(filename, text.encode()) for filename, text in FRUIT.items()]
    batch = user.vector_stores.file_batches.upload_and_poll(vector_store_id=store.id, files=files, poll_interval_ms=50)
    assert batch.file_counts.completed == len(FRUIT), user.vector_stores.files.list(store.id)
    return store.id
