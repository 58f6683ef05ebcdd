"""Which models a tenant may see."""

from __future__ import annotations

import pytest

from backends.config import ModelConfig
from backends.errors import ModelNotFound
from backends.kinds import find_kind
from backends.model import Endpoint, State
from gateway import access
from gateway.registry import Registry
from gateway.snapshot import ModelStatus, Snapshot
from gateway.tenants import ANYONE, Limits, Tenant


@pytest.fixture
def registry() -> Registry:
    made = Registry(lambda backend: find_kind(backend).connect, share=1, max_queue_size=5)
    endpoint = Endpoint("e", "unix:/nowhere", State.READY)
    configs = [
        ModelConfig("chat-small", "echo", parameters={"aliases": "gpt-small"}),
        ModelConfig("chat-large", "echo"),
        ModelConfig("secret", "echo", parameters={"aliases": "public"}),
    ]
    statuses = tuple(ModelStatus(config, State.READY, endpoints=(endpoint,)) for config in configs)
    made.apply(Snapshot(statuses, settled=True))
    return made


def tenant(*models: str) -> Tenant:
    return Tenant("t", Limits(models=models))


def test_a_model_is_allowed_by_its_name_or_by_the_alias_it_is_asked_by(registry: Registry) -> None:
    access.check(registry, tenant("chat-*"), "chat-small")
    access.check(registry, tenant("chat-*"), "gpt-small")
    access.check(registry, tenant("public"), "public")
    access.check(registry, ANYONE, "secret")
    access.check(registry, ANYONE, "no such model")  # that is for the registry to say


@pytest.mark.parametrize("name", ["secret", "public", "chat-none", "nothing", "x" * 500])
def test_what_is_not_allowed_looks_like_what_is_not_there(name: str, registry: Registry) -> None:
    with pytest.raises(ModelNotFound) as raised:
        access.check(registry, tenant("chat-*"), name)
    message = f"The model '{name[:128]}' does not exist or you do not have access to it."
    assert (raised.value.message, raised.value.param) == (message, "model")


def test_only_what_is_allowed_is_listed(registry: Registry) -> None:
    listed = [entry.status.config.name for entry in access.visible(registry, tenant("chat-*"))]
    assert listed == ["chat-small", "chat-large"]
    assert len(access.visible(registry, ANYONE)) == 3
