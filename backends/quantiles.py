"""Quantiles of the last minute that add up: counts in buckets, each so much wider than the one before.

After DDSketch (Masson, Rim, Lee: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees, VLDB 2019).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import msgspec

_ERROR = 0.01
"""How far a quantile may be from the value that it stands for, relative to that."""
_GROWTH = (1 + _ERROR) / (1 - _ERROR)
_SCALE = 1 / math.log(_GROWTH)
_NOTHING = -1
"""The bucket of what took no time."""

_SLOT_NS = 12_000_000_000
_SLOTS = 5
"""Of the last minute, as Prometheus' C++ client has it: a quantile is of the last 48 to 60 seconds."""


class Recent(msgspec.Struct):
    """What one kind of event took lately.

    `slots` are counts by bucket, by the number of 12 seconds of the monotonic clock, which all processes of a machine
    share: those of several processes add up slot by slot. Five slots are kept, of some hundred buckets at most.
    """

    slots: dict[int, dict[int, int]] = {}

    def add(self, ns: int, now_ns: int, count: int = 1) -> None:
        """So many events, which took so long each."""
        number = now_ns // _SLOT_NS
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = {}
            self._forget()
        bucket = math.ceil(math.log(ns) * _SCALE) if ns > 0 else _NOTHING
        slot[bucket] = slot.get(bucket, 0) + count

    def merge(self, other: Recent) -> None:
        """Add what another process counted."""
        for number, counts in other.slots.items():
            slot = self.slots.setdefault(number, {})
            for bucket, count in counts.items():
                slot[bucket] = slot.get(bucket, 0) + count
        self._forget()

    def quantiles(self, wanted: Iterable[float], now_ns: int) -> list[float]:
        """In nanoseconds, within 1 %; NaN where nothing happened lately."""
        oldest = now_ns // _SLOT_NS - _SLOTS
        counts: Counter[int] = Counter()
        for number, slot in self.slots.items():
            if number > oldest:
                counts.update(slot)
        buckets = sorted(counts.items())
        return [_quantile(buckets, counts.total(), each) for each in wanted]

    def _forget(self) -> None:
        for number in sorted(self.slots)[:-_SLOTS]:
            del self.slots[number]


def _quantile(buckets: list[tuple[int, int]], total: int, wanted: float) -> float:
    seen = 0
    for bucket, count in buckets:
        seen += count
        if seen > wanted * (total - 1):
            return 0.0 if bucket == _NOTHING else 2 * _GROWTH**bucket / (_GROWTH + 1)
    return math.nan
