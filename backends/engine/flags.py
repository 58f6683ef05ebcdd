"""Engine arguments of `model.json` as the flags of an engine's command line, by the form of each flag."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.config import ModelConfig
from backends.errors import InvalidRequest

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Flags:
    """What one engine's command line takes, by names with underscores.

    `values` are `--flag=VALUE`; `booleans` `--flag` or `--no-flag`; `switches` `--flag` or nothing; `lists`
    `--flag A B`; `repeated` `--flag=A --flag=B`. `reserved` are the gateway's own. `separator` stands in a flag for
    the underscores of its name.
    """

    engine: str
    values: frozenset[str]
    booleans: frozenset[str] = _NONE
    switches: frozenset[str] = _NONE
    lists: frozenset[str] = _NONE
    repeated: frozenset[str] = _NONE
    reserved: frozenset[str] = _NONE
    separator: str = "-"

    def check(self, config: ModelConfig, ours: frozenset[str] = _NONE) -> dict[str, Any]:
        """The model's arguments without those that are null; `ours` are known beside the engine's.

        Raises `InvalidRequest` that names what is not known.
        """
        given = {key: value for key, value in config.arguments.items() if value is not None}
        known = self.values | self.booleans | self.switches | self.lists | self.repeated | ours
        for key in given:
            if key in self.reserved:
                raise InvalidRequest(
                    f"Model {config.name!r}: the gateway itself sets {self.engine}'s argument {key!r}.", param=key
                )
            if key not in known:
                raise InvalidRequest(f"Model {config.name!r}: {self.engine} has no engine argument {key!r}.", param=key)
        return given

    def render(self, key: str, value: Any) -> Iterator[str]:
        """One argument's part of the command line. Raises `InvalidRequest` where a flag is neither true nor false."""
        name = key.replace("_", self.separator)
        flag = f"--{name}"
        if key in self.booleans:
            yield flag if self._truth(key, value) else f"--no{self.separator}{name}"
        elif key in self.switches:
            if self._truth(key, value):
                yield flag
        elif key in self.lists:
            yield flag
            yield from map(_text, value if isinstance(value, list) else [value])
        elif key in self.repeated:
            yield from (f"{flag}={_text(item)}" for item in (value if isinstance(value, list) else [value]))
        else:
            yield f"{flag}={_text(value)}"

    def _truth(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{self.engine}'s argument {key!r} is true or false, not {_text(value)}.", param=key)
        return value


def positive(config: ModelConfig, key: str, value: object) -> int:
    """A number of at least 1. Raises `InvalidRequest`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest(f"Model {config.name!r}: {key!r} is not a positive number.", param=key)
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def with_local_paths(config: ModelConfig, arguments: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The arguments; those of these names that name a file or folder beside the model are made absolute."""
    local: dict[str, Any] = {}
    for name in names:
        value = arguments.get(name)
        if isinstance(value, str) and (Path(config.path) / value).exists():
            local[name] = str(Path(config.path) / value)
    return arguments | local
