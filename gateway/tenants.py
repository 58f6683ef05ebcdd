"""Tenants: who a key belongs to, what they may use, and how much of it."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal
from zlib import crc32

import msgspec
from msgspec import Meta

from backends.errors import InvalidRequest

OTHER = "other"
"""The metrics' name for tenants without a label of their own: no tenant may be called so."""

_HASHED = "sha256:"
_NAME = re.compile(r"[\w.@:/+-]{1,64}", re.ASCII)
_MINUTE_SECONDS = 60
_DAY_SECONDS = 86400
_NAMES_KEPT = 10_000


class Priority(IntEnum):
    """Classes of waiting requests: one is served only while none of a class before it waits."""

    INTERACTIVE = 0
    STANDARD = 1
    BULK = 2


class Window:
    """One limit over time. Windows are fixed; `phase` keeps those of all tenants from ending at once.

    `key` is how the keys of its counts begin.
    """

    __slots__ = ("counts_tokens", "key", "limit", "phase", "seconds", "what")

    def __init__(
        self, tenant: str, what: Literal["requests", "tokens"], seconds: int, limit: int, phase: int = 0
    ) -> None:
        self.what = what
        self.counts_tokens = what == "tokens"
        self.seconds = seconds
        self.limit = limit
        self.phase = phase
        self.key = f"{tenant}/{what}/{seconds}/"

    def index(self, now: float) -> int:
        """The number of the window at `now`, in seconds since the epoch."""
        return int(now + self.phase) // self.seconds

    def left(self, now: float) -> float:
        """How many seconds are left of the window at `now`."""
        return self.seconds - (now + self.phase) % self.seconds


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the tenants' file may say of one tenant, beside its keys; None is no limit, `models` are globs."""

    models: tuple[str, ...] = ("*",)
    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_day: Annotated[int, Meta(ge=1)] | None = None
    concurrent_streams: Annotated[int, Meta(ge=1)] | None = None
    priority: Literal["interactive", "standard", "bulk"] = "standard"
    weight: Annotated[float, Meta(gt=0)] = 1.0

    def windows(self, tenant: str) -> Iterator[Window]:
        """The limits over time."""
        phase = crc32(tenant.encode()) % _MINUTE_SECONDS
        if self.requests_per_minute is not None:
            yield Window(tenant, "requests", _MINUTE_SECONDS, self.requests_per_minute, phase)
        if self.tokens_per_minute is not None:
            yield Window(tenant, "tokens", _MINUTE_SECONDS, self.tokens_per_minute, phase)
        if self.tokens_per_day is not None:
            yield Window(tenant, "tokens", _DAY_SECONDS, self.tokens_per_day)  # days are those of UTC


class Tenant:
    """One tenant as requests see it. The same name may be another object after a reload.

    Clients hear of the windows `told`, by their number: the shortest of requests and of tokens. `head_lines` says so as
    OpenAI does; what remains of each and until when is to be filled in. `limits` are those of the windows, of them
    `most_tokens` is the least of tokens.
    """

    __slots__ = (
        "_may_use",
        "concurrent_streams",
        "head_lines",
        "is_limited",
        "limits",
        "most_tokens",
        "name",
        "priority",
        "told",
        "weight",
        "windows",
    )

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.priority = Priority[limits.priority.upper()]
        self.weight = limits.weight
        self.concurrent_streams = limits.concurrent_streams
        self.windows = tuple(limits.windows(name))
        firsts = {window.what: number for number, window in reversed(tuple(enumerate(self.windows)))}
        self.told = sorted(firsts.values())
        self.head_lines = b"".join(_told(self.windows[number]) for number in self.told)
        self.limits = [window.limit for window in self.windows]
        self.most_tokens = min((window.limit for window in self.windows if window.counts_tokens), default=0)
        self.is_limited = bool(self.windows or limits.concurrent_streams)
        patterns = "|".join(map(fnmatch.translate, limits.models)) or r"(?!)"
        self._may_use = None if "*" in limits.models else re.compile(patterns).fullmatch

    def may_use(self, model: str) -> bool:
        return self._may_use is None or self._may_use(model) is not None

    @property
    def is_restricted(self) -> bool:
        """Whether there are models that it may not use."""
        return self._may_use is not None


def _told(window: Window) -> bytes:
    return (
        f"x-ratelimit-limit-{window.what}: {window.limit}\r\n"
        f"x-ratelimit-remaining-{window.what}: %d\r\n"
        f"x-ratelimit-reset-{window.what}: %b\r\n"
    ).encode()


ANYONE = Tenant("", Limits())
"""Whoever asks where no tenants are told apart: unlimited, unnamed, uncounted."""


class Table:
    """The tenants of one file: by the SHA-256 digest of their keys, and by name."""

    def __init__(self, by_digest: Mapping[bytes, Tenant], by_name: Mapping[str, Tenant], others: Limits | None) -> None:
        self.by_digest = by_digest
        self._by_name = dict(by_name)
        self._others = others

    def named(self, name: str) -> Tenant | None:
        """The tenant that an identity token names; one without a table has the limits of `[default]`, if any."""
        tenant = self._by_name.get(name)
        if tenant is None and self._others is not None and _is_name(name):
            tenant = Tenant(name, self._others)
            if len(self._by_name) < _NAMES_KEPT:
                self._by_name[name] = tenant
        return tenant


def anybody() -> Table:
    """Without a file: no keys, and whatever tenant an identity token names, without limits."""
    return Table({}, {}, Limits())


class _Tenant(Limits, frozen=True, kw_only=True):
    keys: tuple[str, ...] = ()

    def limits(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tenants: dict[str, _Tenant] = {}
    default: Limits | None = None


def read(path: Path) -> Table:
    """The tenants in a file. Raises `InvalidRequest` that names what is wrong with it.

    Cases: a name that ends with `.toml` has `[tenants.NAME]` tables and perhaps `[default]`; any other has one key a
    line, of nobody in particular. A key is written as it is, or as `sha256:` and its digest.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The API keys cannot be read from {path}: {error}") from error
    return _read_toml(path, text) if path.suffix == ".toml" else _read_lines(path, text)


def _read_lines(path: Path, text: str) -> Table:
    stripped = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    keys = [(f"line {number}", line) for number, line in stripped if line and not line.startswith("#")]
    if not keys:
        raise InvalidRequest(f"{path} holds no API key")
    return Table({_digest(path, where, key): ANYONE for where, key in keys}, {}, None)


def _read_toml(path: Path, text: str) -> Table:
    try:
        file = msgspec.toml.decode(text, type=_File)
    except msgspec.DecodeError as error:  # invalid values are of this class too
        raise InvalidRequest(f"{path}: {error}") from error
    by_name: dict[str, Tenant] = {}
    by_digest: dict[bytes, Tenant] = {}
    for name, table in file.tenants.items():
        where = f"tenant {name!r}"
        if not _is_name(name):
            raise InvalidRequest(f"{path}, {where}: not a name that a tenant may have")
        tenant = by_name[name] = Tenant(name, table.limits())
        for key in table.keys:
            digest = _digest(path, where, key)
            if by_digest.setdefault(digest, tenant) is not tenant:
                raise InvalidRequest(f"{path}, {where}: one of its keys is also {by_digest[digest].name!r}'s")
    if not by_name and file.default is None:
        raise InvalidRequest(f"{path} holds no tenant")
    return Table(by_digest, by_name, file.default)


def _digest(path: Path, where: str, key: str) -> bytes:
    if not key.startswith(_HASHED):
        if not key:
            raise InvalidRequest(f"{path}, {where}: an API key is empty")
        return hashlib.sha256(key.encode()).digest()
    try:
        digest = bytes.fromhex(key.removeprefix(_HASHED))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise InvalidRequest(f"{path}, {where}: not a SHA-256 digest in hexadecimal")
    return digest


def _is_name(name: str) -> bool:
    return name != OTHER and _NAME.fullmatch(name) is not None
