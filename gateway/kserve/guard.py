"""Who may change what a server does through KServe's API: load models, map memory, set what is logged and traced."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from backends.errors import NotPermitted
from gateway.admin_keys import AdminKeys
from gateway.settings import Settings, is_loopback

_CHANGES = frozenset({"load", "unload", "memory_register", "memory_unregister", "logging", "trace"})


class Guard:
    """Where keys are configured, or only this machine reaches the port, the rules are those of `/admin`.

    A port that is open to others without keys is open for this too, as Triton's is, but not to pages of other sites:
    a file that comes with a load is code that runs here, and a browser sends such a request for whoever asks it to.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = AdminKeys(settings)
        has_keys = settings.admin_key_file or settings.api_key_file or settings.jwt_jwks_url
        self._is_open = not has_keys and not is_loopback(settings.host)

    def check(self, operation: str, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raises `NotAuthenticated`, `NotPermitted`."""
        if method != "POST" or operation not in _CHANGES:
            return
        origin = headers.get(b"origin", b"")
        if not self._is_open:
            self._keys.check(headers)
        elif origin and urlsplit(origin).netloc != headers.get(b"host"):
            raise NotPermitted("Pages of other sites may not ask here.")
