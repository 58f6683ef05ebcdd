"""Who may use /admin: with a key file, without one, and from which page."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from backends.errors import InvalidRequest, NotAuthenticated, NotPermitted
from gateway.admin_keys import AdminKeys
from gateway.settings import Settings

HERE = {b"host": b"127.0.0.1:8000"}


def keys(**settings: Any) -> AdminKeys:
    return AdminKeys(Settings(**settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "admin"
    path.write_text(f"root\nsha256:{hashlib.sha256(b'hashed').hexdigest()}\n")
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer root"},
        {b"authorization": b"bearer hashed"},
        {b"x-api-key": b"root"},
    ],
)
def test_a_key_of_the_file_opens(file: Path, headers: dict[bytes, bytes]) -> None:
    keys(admin_key_file=file, host="0.0.0.0", insecure=True).check(headers)


@pytest.mark.parametrize("headers", [{}, HERE, {b"authorization": b"Bearer user"}, {b"x-api-key": b""}])
def test_no_other_key_does(file: Path, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(NotAuthenticated):
        keys(admin_key_file=file).check(headers)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_without_a_file_it_is_open_to_this_machine(host: str) -> None:
    keys().check({b"host": host.encode()})
    keys().check({b"host": host.encode(), b"origin": f"http://{host}".encode()})


@pytest.mark.parametrize(
    "headers",
    [
        {**HERE, b"origin": b"https://elsewhere.example"},
        {**HERE, b"origin": b"null"},
        {b"host": b"rebound.example:8000"},
        {b"host": b"[::1"},
        {},
    ],
)
def test_pages_of_other_sites_may_not_ask(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(NotPermitted, match="other sites"):
        keys().check(headers)


@pytest.mark.parametrize(
    "settings",
    [{"host": "0.0.0.0", "insecure": True}, {"api_key_file": "keys"}, {"jwt_jwks_url": "https://login.example"}],
)
def test_where_others_may_ask_the_gateway_nobody_may_ask_without_a_file(settings: dict[str, Any]) -> None:
    with pytest.raises(NotPermitted, match="--admin-key-file"):
        keys(**settings).check(HERE)


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        keys(admin_key_file=tmp_path / "gone")
