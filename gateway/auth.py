"""API keys and identity tokens: who may ask, and for which tenant. Read again while serving, never by a request."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import NotAuthenticated, ServingError
from gateway.settings import Settings
from gateway.tenants import Table, Tenant, anybody, read

if TYPE_CHECKING:
    from gateway.identity import Identity

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0

_Stamp = tuple[int, int, int]


class Keys:
    """What lets a request in: the keys of a file, kept as SHA-256 digests only, and identity tokens where configured.

    `watch` is run by whoever serves: it follows the file, and the tokens' keys.
    """

    def __init__(self, table: Table, path: Path | None = None, identity: Identity | None = None) -> None:
        self._table = table
        self._path = path
        self._identity = identity
        self._stamp = _stamp(path)
        self._asked = asyncio.Event()

    @classmethod
    def read(cls, settings: Settings) -> Keys | None:
        """What the settings name; None where everybody is let in. Raises `InvalidRequest` naming what is wrong."""
        path = settings.api_key_file
        identity = None
        if settings.jwt_jwks_url is not None:
            from gateway.identity import Identity  # cryptography is 10 MB

            identity = Identity.read(settings.jwt_jwks_url, settings)
        if path is None and identity is None:
            return None
        return cls(anybody() if path is None else read(path), path, identity)

    async def tenant(self, headers: Mapping[bytes, bytes]) -> Tenant:
        """Whose `Authorization: Bearer` or `x-api-key` (Anthropic's) it is. Raises `NotAuthenticated`.

        A key is looked up by its digest in a hash table. How long that takes tells an attacker at most something
        of the digests of keys, which nobody can turn back into keys, nor steer towards by choosing what to send.
        """
        given = headers.get(b"authorization", b"")
        is_bearer = given[:7].lower() == b"bearer "
        key = given[7:].strip() if is_bearer else headers.get(b"x-api-key", b"")
        if not key:
            raise NotAuthenticated("No API key was given: send it as 'Authorization: Bearer KEY'.")
        digest = hashlib.sha256(key).digest()
        tenant = self._table.by_digest.get(digest)
        if tenant is None and self._identity is not None and _looks_like_token(key):
            name = await self._identity.tenant_name(key, digest)
            tenant = self._table.named(name)
            if tenant is None:
                raise NotAuthenticated("The tenant that the token names is not known to this server.")
        if tenant is None:
            raise NotAuthenticated("The API key is not known to this server.")
        return tenant

    def reload(self) -> None:
        """Have `watch` read the file now, changed or not."""
        self._asked.set()

    async def watch(self) -> None:
        """Follow the file and the tokens' keys, until it is cancelled. A file that is wrong changes nothing."""
        async with asyncio.TaskGroup() as group:
            if self._identity is not None:
                group.create_task(self._identity.watch())
            if self._path is not None:
                group.create_task(self._follow(self._path))

    async def _follow(self, path: Path) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                pass
            stamp = await asyncio.to_thread(_stamp, path)  # a network's file may be slow
            if stamp == self._stamp and not self._asked.is_set():
                continue
            self._asked.clear()
            self._stamp = stamp
            try:
                self._table = await asyncio.to_thread(read, path)
            except ServingError as error:
                _log.error("The API keys stay as they were: %s", error.message)
            else:
                _log.info("The API keys were read again from %s.", path)


def _looks_like_token(key: bytes) -> bool:
    """Whether it may be an identity token: three parts, the first of them base64 of `{"`."""
    return key.startswith(b"eyJ") and key.count(b".") == 2


def _stamp(path: Path | None) -> _Stamp | None:
    """What changes with a file: rewriting it in place, and putting another one (a symbolic link's) there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
