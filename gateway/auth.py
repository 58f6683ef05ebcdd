"""API keys: who may ask."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from backends.errors import InvalidRequest, NotAuthenticated

_PREFIX = "sha256:"


class Keys:
    """The API keys of a file, kept as SHA-256 digests only.

    One key a line: the key itself, or `sha256:<hex digest>`; blank lines and lines starting with `#` are skipped.
    Keys are random strings of high entropy, so a fast digest is enough; comparing digests tells nothing of a key.
    """

    def __init__(self, digests: frozenset[bytes]) -> None:
        self._digests = tuple(digests)

    @classmethod
    def read(cls, path: str | None) -> Keys | None:
        """The keys in the file at `path`; None without one. Raises `InvalidRequest` naming what is wrong."""
        if path is None:
            return None
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The API keys cannot be read from {path}: {error}") from error
        digests = set()
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if text.startswith(_PREFIX):
                try:
                    digest = bytes.fromhex(text.removeprefix(_PREFIX))
                except ValueError:
                    digest = b""
                if len(digest) != hashlib.sha256().digest_size:
                    raise InvalidRequest(f"{path}, line {number}: not a SHA-256 digest in hexadecimal")
                digests.add(digest)
            else:
                digests.add(hashlib.sha256(text.encode()).digest())
        if not digests:
            raise InvalidRequest(f"{path} holds no API key")
        return cls(frozenset(digests))

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises `NotAuthenticated` unless `Authorization: Bearer` or `x-api-key` (Anthropic's) carries a known key."""
        given = headers.get(b"authorization", b"")
        is_bearer = given[:7].lower() == b"bearer "
        key = given[7:].strip() if is_bearer else headers.get(b"x-api-key", b"")
        if not key:
            raise NotAuthenticated("No API key was given: send it as 'Authorization: Bearer KEY'.")
        digest = hashlib.sha256(key).digest()
        known = False
        for other in self._digests:
            known |= hmac.compare_digest(digest, other)
        if not known:
            raise NotAuthenticated("The API key is not known to this server.")
