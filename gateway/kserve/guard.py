"""Who may change what a server does through KServe's API: load models, map memory, set what is logged and traced."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from backends.errors import NotPermitted
from gateway.admin_keys import AdminKeys
from gateway.kserve import repository
from gateway.settings import Settings, is_loopback

_CHANGES = frozenset({"memory_register", "memory_unregister", "logging", "trace"})


class Guard:
    """Loading and unloading are for whom `/admin` lets in: what comes with a load is code that runs here.

    So is the rest where keys are configured, or where only this machine reaches the port. A port that is open to
    others without keys is open for it too, as Triton's is, but not to pages of other sites.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = AdminKeys(settings)
        has_keys = settings.admin_key_file or settings.api_key_file or settings.jwt_jwks_url
        self._is_open = not has_keys and not is_loopback(settings.host)

    def check(self, operation: str, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether this is such a change, and allowed: no other key is wanted then.

        Raises `NotAuthenticated`, `NotPermitted`.
        """
        if method != "POST" or not (operation in _CHANGES or operation in repository.CONTROL):
            return False
        origin = headers.get(b"origin", b"")
        if not self._is_open or operation in repository.CONTROL:
            self._keys.check(headers)
        elif origin and urlsplit(origin).netloc != headers.get(b"host"):
            raise NotPermitted("Pages of other sites may not ask here.")
        return True
