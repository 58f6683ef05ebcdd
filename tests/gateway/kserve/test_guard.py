"""Who may load models and the like: whoever holds an admin key, this machine, never another site's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.errors import NotAuthenticated, NotPermitted
from gateway.kserve.guard import Guard
from gateway.settings import Settings

HERE = {b"host": b"127.0.0.1:8000"}


def guard(**settings: Any) -> Guard:
    return Guard(Settings(**settings))


def test_reading_is_free_and_so_is_what_is_no_change() -> None:
    assert not guard().check("logging", "GET", {})
    assert not guard().check("infer", "POST", {})


def test_on_this_machine_only_its_own_pages_may() -> None:
    assert guard().check("load", "POST", HERE)
    for headers in ({**HERE, b"origin": b"http://evil.example"}, {b"host": b"evil.example"}):
        with pytest.raises(NotPermitted):
            guard().check("load", "POST", headers)


def test_on_an_open_port_all_but_pages_of_other_sites_may() -> None:
    open_port = guard(host="0.0.0.0", insecure=True)
    assert open_port.check("memory_register", "POST", {b"host": b"tritium:8000"})
    open_port.check("logging", "POST", {b"host": b"tritium:8000", b"origin": b"http://tritium:8000"})
    with pytest.raises(NotPermitted, match="Pages of other sites"):
        open_port.check("logging", "POST", {b"host": b"tritium:8000", b"origin": b"http://evil.example"})
    with pytest.raises(NotPermitted, match="no admin key"):
        open_port.check("load", "POST", {b"host": b"tritium:8000"})


def test_with_keys_an_admins_is_wanted(tmp_path: Path) -> None:
    keys, admins = tmp_path / "keys", tmp_path / "admins"
    keys.write_text("user\n")
    admins.write_text("admin\n")
    with pytest.raises(NotPermitted, match="no admin key"):
        guard(api_key_file=keys).check("unload", "POST", HERE)
    both = guard(api_key_file=keys, admin_key_file=admins)
    with pytest.raises(NotAuthenticated):
        both.check("trace", "POST", {**HERE, b"authorization": b"Bearer user"})
    both.check("trace", "POST", {**HERE, b"authorization": b"Bearer admin"})
