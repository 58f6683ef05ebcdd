"""Identity tokens (JWT, as OpenID Connect has them): each verified once, by keys fetched beside the requests."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from http.client import HTTPException
from pathlib import Path
from time import monotonic, time
from typing import Any

import jwt

from backends.errors import InvalidRequest, NotAuthenticated, Unavailable
from gateway.settings import Settings

_log = logging.getLogger(__name__)

# Only signatures that a provider's public key verifies: with a secret that is shared, whoever verifies could sign.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LEEWAY_SECONDS = 10.0
_REFRESH_SECONDS = 300.0
PAUSE_SECONDS = 5.0
"""A key that nobody knows makes us look for new ones, this often at most: anybody can invent key ids."""

_FETCH_SECONDS = 10.0
_FETCH_BYTES = 1024 * 1024
_TOKENS_KEPT = 10_000


class Identity:
    """Verifies identity tokens. `source` is the URL of a JSON Web Key Set or the path of a file with one.

    A token that was verified is remembered by its digest until it expires, so that it costs a request one look-up.
    """

    def __init__(
        self,
        source: str,
        *,
        issuer: str | None,
        audience: str | None,
        claim: str,
        pause_seconds: float = PAUSE_SECONDS,
        tokens_kept: int = _TOKENS_KEPT,
    ) -> None:
        self._source = source
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._pause_seconds = pause_seconds
        self._tokens_kept = tokens_kept
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._is_fetched = False
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._known: dict[bytes, tuple[str, float]] = {}

    @classmethod
    def read(cls, source: str, settings: Settings) -> Identity:
        """What the settings name. Raises `InvalidRequest` for a file that holds no keys."""
        if "://" not in source:
            try:
                _parse(_load(source))
            except (OSError, ValueError, jwt.PyJWTError) as error:
                raise InvalidRequest(f"No JSON Web Key Set can be read from {source}: {error}") from error
        elif not source.startswith(("https://", "http://")):
            raise InvalidRequest(f"--jwt-jwks-url wants an http:// or https:// URL, or a file, not {source!r}.")
        return cls(source, issuer=settings.jwt_issuer, audience=settings.jwt_audience, claim=settings.jwt_tenant_claim)

    async def tenant_name(self, token: bytes, digest: bytes) -> str:
        """The tenant that a token names; `digest` is the token's own. Raises `NotAuthenticated`, `Unavailable`."""
        known = self._known.get(digest)
        now = time()
        if known is not None and now < known[1]:
            return known[0]
        name, expires_at = await self._verify(token)
        if len(self._known) >= self._tokens_kept:  # in order of arrival, so the oldest goes
            del self._known[next(iter(self._known))]
        self._known[digest] = name, expires_at
        return name

    async def watch(self) -> None:
        """Keep the keys fresh, until it is cancelled."""
        while True:
            await self._refresh(monotonic())
            await asyncio.sleep(_REFRESH_SECONDS if self._is_fetched else self._pause_seconds)

    async def _verify(self, token: bytes) -> tuple[str, float]:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._key(key_id)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp"], "verify_aud": self._audience is not None},
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticated(f"The token is refused: {error}.", code="invalid_token") from error
        name = claims.get(self._claim)
        if not isinstance(name, str) or not name:
            raise NotAuthenticated(f"The token has no claim {self._claim!r} that names a tenant.", code="invalid_token")
        return name, float(claims["exp"])

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        if key_id not in self._keys:
            await self._refresh(monotonic())
        if not self._is_fetched:
            raise Unavailable(
                "The keys of identity tokens have not been fetched.", retry_after_seconds=self._pause_seconds
            )
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        try:
            return self._keys[key_id]
        except KeyError as error:
            raise NotAuthenticated("The token's key is not known to this server.", code="invalid_token") from error

    async def _refresh(self, asked_at: float) -> None:
        """Fetch the keys unless somebody did since, or just before. A fetch that fails leaves those we have."""
        async with self._fetching:
            if self._fetched_at > asked_at - self._pause_seconds:
                return
            try:
                self._keys = _parse(await asyncio.to_thread(_load, self._source))
                self._is_fetched = True
            except (OSError, HTTPException, ValueError, jwt.PyJWTError) as error:
                _log.warning("The keys of identity tokens cannot be fetched from %s: %s", self._source, error)
            self._fetched_at = monotonic()


def _load(source: str) -> bytes:
    if "://" not in source:
        return Path(source).read_bytes()
    with urllib.request.urlopen(source, timeout=_FETCH_SECONDS) as answer:  # noqa: S310  # http and https only: `read`
        body: bytes = answer.read(_FETCH_BYTES)
    return body


def _parse(body: bytes) -> dict[str | None, jwt.PyJWK]:
    decoded = json.loads(body)
    if not isinstance(decoded, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  # the file's value is wrong, not a caller's type
    return {key.key_id: key for key in jwt.PyJWKSet.from_dict(decoded).keys}
