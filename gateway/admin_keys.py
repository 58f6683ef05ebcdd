"""Who may use `/admin`: a key file of its own, or nobody but this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from backends.errors import NotAuthenticated, NotPermitted
from gateway import tenants
from gateway.settings import Settings, is_loopback


class AdminKeys:
    """The keys of `--admin-key-file`.

    Without that file, whoever asks from this machine, as long as the gateway listens on a loopback address and wants
    no API keys; otherwise nobody.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises `InvalidRequest` where the file cannot be used."""
        path: Path | None = settings.admin_key_file
        self._digests = None if path is None else frozenset(tenants.read(path).by_digest)
        has_keys = settings.api_key_file is not None or settings.jwt_jwks_url is not None
        self._is_open = path is None and is_loopback(settings.host) and not has_keys

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises `NotAuthenticated`, `NotPermitted`."""
        if self._digests is not None:
            given = headers.get(b"authorization", b"")
            key = given[7:].strip() if given[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
            if hashlib.sha256(key).digest() not in self._digests:
                raise NotAuthenticated("An admin key is wanted here: send it as 'Authorization: Bearer KEY'.")
        elif not self._is_open:
            raise NotPermitted("There is no admin key: name a file of them with --admin-key-file.")
        elif not _is_from_here(headers):
            raise NotPermitted("Without an admin key, pages of other sites may not ask here.")


def _is_from_here(headers: Mapping[bytes, bytes]) -> bool:
    """Whether no other site's page sends this through somebody's browser: by its origin, or by a name of its own."""
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin", b"").decode("latin-1")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return is_loopback(name) and (not origin or urlsplit(origin).netloc == host)
    except ValueError:
        return False
