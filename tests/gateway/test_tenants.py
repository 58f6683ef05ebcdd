"""The tenants' file: keys, limits, what is wrong with it, and which models a tenant may use."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from backends.errors import InvalidRequest
from gateway.tenants import ANYONE, Limits, Priority, Tenant, Window, anybody, read

FULL = """
[tenants.search]
keys = ["sk-one", "sha256:{digest}"]
models = ["chat-*", "embedder"]
requests_per_minute = 600
tokens_per_minute = 100_000
tokens_per_day = 5_000_000
concurrent_streams = 20
priority = "interactive"
weight = 2

[tenants."team:b/2"]
keys = ["sk-three"]

[default]
requests_per_minute = 3
"""


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tenants.toml"


def test_a_table_says_whose_a_key_is_and_what_it_may_do(file: Path) -> None:
    file.write_text(FULL.format(digest=digest("sk-two").hex()))
    table = read(file)
    tenant = table.by_digest[digest("sk-one")]
    assert tenant is table.by_digest[digest("sk-two")] is table.named("search")
    assert (tenant.name, tenant.priority, tenant.weight, tenant.concurrent_streams) == (
        "search",
        Priority.INTERACTIVE,
        2,
        20,
    )
    assert [(window.what, window.seconds, window.limit) for window in tenant.windows] == [
        ("requests", 60, 600),
        ("tokens", 60, 100_000),
        ("tokens", 86400, 5_000_000),
    ]
    other = table.by_digest[digest("sk-three")]
    assert (other.name, other.priority, other.is_limited) == ("team:b/2", Priority.STANDARD, False)


def test_whom_a_token_names_has_its_own_table_or_the_default_one(file: Path) -> None:
    file.write_text(FULL.format(digest="00" * 32))
    table = read(file)
    stranger = table.named("stranger")
    assert stranger is not None
    assert (stranger.name, stranger.windows[0].limit) == ("stranger", 3)
    assert table.named("stranger") is stranger
    assert table.named("a name with\nlines") is None
    file.write_text('[tenants.a]\nkeys = ["k"]\n')
    assert read(file).named("stranger") is None
    open_one = anybody().named("anybody")
    assert open_one is not None
    assert not open_one.is_limited


def test_of_very_many_names_only_so_many_are_kept() -> None:
    table = anybody()
    for number in range(10_500):
        assert table.named(f"n{number}") is not None
    assert len(table._by_name) == 10_000


def test_a_list_of_keys_has_no_tenants(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("sk-one\n# no key\n")
    assert read(tmp_path / "keys.txt").by_digest == {digest("sk-one"): ANYONE}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "holds no tenant"),
        ("[tenants]\n", "holds no tenant"),
        ("[tenants.a", "tenants.toml"),
        ('[tenants.a]\nkey = ["x"]\n', "key"),
        ("[tenants.a]\nrequests_per_minute = 0\n", "requests_per_minute"),
        ("[tenants.a]\nweight = 0\n", "weight"),
        ('[tenants.a]\npriority = "urgent"\n', "priority"),
        ('[tenants.a]\nkeys = ["x"]\n[tenants.b]\nkeys = ["x"]\n', "'b': one of its keys is also 'a''s"),
        ('[tenants.a]\nkeys = [""]\n', "empty"),
        ('[tenants.a]\nkeys = ["sha256:12"]\n', "'a': not a SHA-256 digest"),
        ('[tenants.other]\nkeys = ["x"]\n', "not a name"),
        ('[tenants."a b"]\nkeys = ["x"]\n', "not a name"),
        ('keys = ["x"]\n', "keys"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, word: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match="tenants") as raised:
        read(file)
    assert word in raised.value.message


def test_models_are_named_by_patterns() -> None:
    tenant = Tenant("a", Limits(models=("chat-*", "embedder")))
    assert tenant.is_restricted
    assert all(tenant.may_use(name) for name in ("chat-", "chat-large", "embedder"))
    assert not any(tenant.may_use(name) for name in ("embedder2", "a-chat-b", "", "chat"))
    assert not Tenant("a", Limits(models=())).may_use("any")
    assert not Tenant("a", Limits()).is_restricted


@pytest.mark.parametrize("phase", [0, 17, 59])
def test_a_window_is_over_when_it_says(phase: int) -> None:
    window = Window("t", "requests", 60, 1, phase)
    now = 1_000_000.25
    index, left = window.index(now), window.left(now)
    assert window.index(now + left - 0.001) == index
    assert window.index(now + left + 0.001) == index + 1
    assert 0 < left <= 60


def test_the_shortest_windows_are_told_in_openais_words() -> None:
    tenant = Tenant("a", Limits(requests_per_minute=3, tokens_per_minute=50, tokens_per_day=40))
    assert tenant.told == [0, 1]
    assert tenant.most_tokens == 40
    assert tenant.head_lines % (1, b"2s", 3, b"4s") == (
        b"x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 2s\r\n"
        b"x-ratelimit-limit-tokens: 50\r\nx-ratelimit-remaining-tokens: 3\r\nx-ratelimit-reset-tokens: 4s\r\n"
    )
    assert Tenant("a", Limits(tokens_per_day=40)).told == [0]
    assert Tenant("a", Limits()).head_lines == b""
