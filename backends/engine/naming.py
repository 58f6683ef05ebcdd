"""By which other names a model answers, and which models stand in for it: parameters of its `config.pbtxt`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from backends.config import ModelConfig
from backends.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    ServingError,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)

PARAMETERS = frozenset({"aliases", "fallbacks", "fallback_on"})
"""Every kind has them; each is a list by comma."""

DEFAULT_CAUSES = ("429", "5xx", "timeout", "connection", "not_ready")
_STATUS = re.compile(r"[45](\d\d|xx)")
# The more special classes first.
_WORDS: tuple[tuple[type[ServingError], tuple[str, ...]], ...] = (
    (DeadlineExceeded, ()),  # the client's time is up: no other model has any left
    (ModelNotReady, ("not_ready", "503", "5xx")),
    (Overloaded, ("overloaded", "429", "4xx")),
    (UpstreamTimeout, ("timeout", "504", "5xx")),
    (UpstreamError, ("connection", "502", "5xx")),
    (Unavailable, ("connection", "503", "5xx")),
)


@dataclass(frozen=True, slots=True)
class Naming:
    """`fallbacks` are asked in turn, each once, when an answer fails for one of `fallback_on` before it began.

    A cause is a status (`429`, `503`), a class of them (`5xx`), or `timeout`, `connection`, `not_ready`, `overloaded`.
    """

    aliases: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    fallback_on: frozenset[str] = frozenset(DEFAULT_CAUSES)

    def covers_status(self, status: int) -> bool:
        """Whether an engine's answer of this status shall be had from a fallback instead."""
        return str(status) in self.fallback_on or f"{status // 100}xx" in self.fallback_on

    def covers(self, error: ServingError) -> bool:
        """As `covers_status`, for an attempt that got no answer at all."""
        words = next((words for kind, words in _WORDS if isinstance(error, kind)), ())
        return not self.fallback_on.isdisjoint(words)


def read(config: ModelConfig) -> Naming:
    """The names of a model. Raises `InvalidRequest` that names the parameter at fault."""
    aliases, fallbacks = _words(config, "aliases"), _words(config, "fallbacks")
    for parameter, names in (("aliases", aliases), ("fallbacks", fallbacks)):
        if config.name in names or len(set(names)) < len(names):
            raise _wrong(config, parameter, "holds the model's own name, or one name twice")
    if "fallback_on" not in config.parameters:
        return Naming(aliases, fallbacks)
    causes = _words(config, "fallback_on")
    known = {word for _, words in _WORDS for word in words}
    for cause in causes:
        if cause not in known and not _STATUS.fullmatch(cause):
            raise _wrong(config, "fallback_on", f"holds {cause!r}, which is no status, no class of them and no cause")
    return Naming(aliases, fallbacks, frozenset(causes))


def clash(naming: Naming, name: str, taken: Iterable[tuple[str, Naming]]) -> str | None:
    """Why these names cannot stand beside those of other models; None where they can."""
    for other, theirs in taken:
        if name in theirs.aliases:
            return f"its name is an alias of the model {other!r} already"
        for alias in naming.aliases:
            if alias == other:
                return f"its alias {alias!r} is the name of another model"
            if alias in theirs.aliases:
                return f"its alias {alias!r} is one of the model {other!r} already"
    return None


def _words(config: ModelConfig, parameter: str) -> tuple[str, ...]:
    return tuple(word for part in config.parameters.get(parameter, "").split(",") if (word := part.strip()))


def _wrong(config: ModelConfig, parameter: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Model {config.name!r}: the parameter {parameter!r} {why}.", param=parameter)
