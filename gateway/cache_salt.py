"""Prefix caches kept apart by tenant: a salt in the request, so that no tenant can learn by timing what others ask."""

from __future__ import annotations

import hashlib
from pathlib import Path

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from backends.model import Capability
from gateway.dialect import Call

_SALTED = frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.RESPONSES})
# vLLM, and the simulator of one.
_KNOWING = frozenset({"vllm", "echo"})
_DIGEST_BYTES = 16
_KEY_BYTES = 64


class CacheSalt:
    """Salts requests by the digest of their tenant under a secret `key`: an engine's logs then name no tenant.

    All gateways in front of the same engines have the same key, else they would not find each other's prefixes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key[:_KEY_BYTES]

    @classmethod
    def read(cls, path: Path | None) -> CacheSalt | None:
        """With the secret in a file; None without one. Raises `InvalidRequest`."""
        if path is None:
            return None
        try:
            key = path.read_bytes().strip()
        except OSError as error:
            raise InvalidRequest(f"The secret of the cache salt cannot be read from {path}: {error}") from error
        if not key:
            raise InvalidRequest(f"The secret of the cache salt in {path} is empty")
        return cls(key)

    def salted(self, call: Call, tenant: str) -> bytes:
        """The body with its salt. One that the client chose stays apart from its others, and from all tenants'.

        It is put in last: of two fields of the same name, parsers of JSON take the later.
        """
        own = call.cache_salt
        text = tenant if own is None else f"{tenant}\0{own}"
        salt = hashlib.blake2b(text.encode(), key=self._key, digest_size=_DIGEST_BYTES).hexdigest().encode()
        body = call.body
        return b'%b,"cache_salt":"%b"}' % (body[: body.rindex(b"}")], salt)


def is_salted(config: ModelConfig, capability: Capability) -> bool:
    """Whether the engine of this model knows the field, for such an operation."""
    return config.parameters.get("engine", config.backend) in _KNOWING and capability in _SALTED
