"""Salts of prefix caches: one a tenant, nobody can guess another's, and nothing else of the body moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from backends.model import Capability
from gateway.cache_salt import CacheSalt, is_salted
from gateway.dialect import read_call

SALT = CacheSalt(b"a secret of the gateway's")


def salted(tenant: str, salt: CacheSalt = SALT, **fields: Any) -> dict[str, Any]:
    call = read_call(json.dumps({"model": "m", **fields}).encode())
    sent: dict[str, Any] = json.loads(salt.salted(call, tenant))
    return sent


@given(st.dictionaries(st.text(max_size=5).filter(lambda name: name not in {"model", "stream"}), st.text(max_size=5)))
def test_the_salt_is_put_in_and_nothing_else_moves(fields: dict[str, str]) -> None:
    sent = salted("t", **fields)
    assert len(sent.pop("cache_salt")) == 32
    fields.pop("cache_salt", None)
    assert sent == {"model": "m", **fields}


def test_space_around_the_body_does_no_harm() -> None:
    call = read_call(b' {"model": "m", "messages": [{}]} \n')
    assert json.loads(SALT.salted(call, "t"))["messages"] == [{}]


def test_salts_differ_by_tenant_by_secret_and_by_the_clients_own_and_tell_no_name() -> None:
    salts = [
        salted("a")["cache_salt"],
        salted("b")["cache_salt"],
        salted("a", CacheSalt(b"another"))["cache_salt"],
        salted("a", cache_salt="mine")["cache_salt"],
        salted("b", cache_salt="mine")["cache_salt"],
    ]
    assert len(set(salts)) == 5
    assert salted("a")["cache_salt"] == salts[0]
    assert "mine" not in "".join(salts)


def test_engines_that_know_the_field_get_it_for_what_has_prompts() -> None:
    def config(backend: str, **parameters: str) -> ModelConfig:
        return ModelConfig("m", backend, parameters=parameters)

    assert is_salted(config("vllm"), Capability.CHAT)
    assert is_salted(config("openai", engine="vllm"), Capability.RESPONSES)
    assert not is_salted(config("openai"), Capability.CHAT)
    assert not is_salted(config("llamacpp"), Capability.CHAT)
    assert not is_salted(config("vllm"), Capability.EMBEDDINGS)


def test_the_secret_is_a_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret of the gateway's\n")
    read = CacheSalt.read(file)
    assert read is not None
    assert salted("a", read) == salted("a")
    assert CacheSalt.read(None) is None
    file.write_text("\n")
    with pytest.raises(InvalidRequest, match="empty"):
        CacheSalt.read(file)
    with pytest.raises(InvalidRequest, match="nowhere"):
        CacheSalt.read(tmp_path / "nowhere")
