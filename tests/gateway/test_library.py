"""The library of a process of the gateway: where the settings say, on the models of the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.errors import ModelNotReady, Unavailable
from backends.model import Capability, Endpoint, Endpoints, Models, State
from gateway.library import embedder_of, first_embedder, is_installed, library_of, place_of
from gateway.registry import Connect, Registry
from gateway.settings import read
from gateway.snapshot import ModelStatus, Snapshot

EMBEDS = frozenset({Capability.EMBEDDINGS})
BOTH = frozenset({Capability.EMBEDDINGS, Capability.CHAT})
CHATS = frozenset({Capability.CHAT})


def registry_of(**capabilities: frozenset[Capability]) -> Registry:
    """With models of these names that can do so much."""

    def find(_backend: str) -> Connect:
        def connect(config: ModelConfig, endpoints: Endpoints, _models: Models) -> EngineModel:
            return EngineModel(config, endpoints, capabilities=capabilities[config.name], parallelism=1)

        return connect

    registry = Registry(find, share=1, max_queue_size=1)
    models = [
        ModelStatus(
            ModelConfig(name, backend="toy"),
            State.READY,
            endpoints=(Endpoint(f"{name}/1", "unix:/nowhere"),),
        )
        for name in capabilities
    ]
    registry.apply(Snapshot(tuple(models), settled=True))
    return registry


def test_the_first_model_that_embeds_and_does_nothing_else_is_the_embedder():
    assert first_embedder(registry_of(chat=CHATS, a_both=BOTH, z_embeds=EMBEDS)) == "z_embeds"
    assert first_embedder(registry_of(chat=CHATS, both=BOTH)) == "both"


def test_without_a_model_that_embeds_there_is_no_embedder():
    with pytest.raises(ModelNotReady, match="No model that embeds"):
        first_embedder(registry_of(chat=CHATS))


def test_the_embedder_that_is_named_is_taken():
    assert embedder_of(read({"embedder": "mine"}), registry_of(other=EMBEDS))() == "mine"
    assert embedder_of(read(), registry_of(other=EMBEDS))() == "other"


def test_the_settings_say_where_it_is(tmp_path: Path):
    place = place_of(read({"data_dir": tmp_path, "database_url": "postgresql://host/name"}))
    assert (place.data_dir, place.database_url, place.vector_store_url) == (tmp_path, "postgresql://host/name", "")
    assert place.is_begun()


def test_a_library_that_is_not_asked_makes_nothing(tmp_path: Path):
    library = library_of(read({"data_dir": tmp_path / "data"}), registry_of())
    assert not library.is_begun()
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_not_installed_is_not_found():
    assert is_installed()
    assert not is_installed("no_such_package")


def test_a_process_without_the_packages_says_which_to_install():
    with pytest.raises(Unavailable, match=r"tritium\[rag\]"):
        _ = registry_of().library
