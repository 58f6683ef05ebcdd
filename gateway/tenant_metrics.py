"""What a server process counts of each tenant; which of them have labels is decided where processes are added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.tenants import OTHER

_NAMES_KEPT = 10_000


class Tally(msgspec.Struct):
    """One tenant's numbers: all only grow."""

    requests: int = 0
    refusals: int = 0
    """Answers with 429."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    waits: int = 0
    waited_seconds: float = 0.0

    def count(self, status: int, prompt_tokens: int, completion_tokens: int, waited_seconds: float) -> None:
        """A request has ended."""
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if status == 429:
            self.refusals += 1
        if waited_seconds:
            self.waits += 1
            self.waited_seconds += waited_seconds

    def add(self, other: Tally) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def since(self, before: Tally) -> Tally:
        """What has come since."""
        return Tally(*(getattr(self, name) - getattr(before, name) for name in self.__struct_fields__))

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Tallies:
    """Tallies by tenant; of very many tenants, the late ones share that of `other`."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tally] = {}

    def of(self, tenant: str) -> Tally:
        tally = self.by_name.get(tenant)
        if tally is None:
            name = tenant if len(self.by_name) < _NAMES_KEPT else OTHER
            tally = self.by_name.setdefault(name, Tally())
        return tally


def sums(parts: Iterable[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The tallies of several processes as one."""
    total: dict[str, Tally] = {}
    for part in parts:
        for name, tally in part.items():
            total.setdefault(name, Tally()).add(tally)
    return total
