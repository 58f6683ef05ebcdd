"""Observed seconds, counted by bounds."""

from __future__ import annotations

from bisect import bisect_left

import msgspec


class Histogram(msgspec.Struct):
    """Observed seconds. `counts[i]` holds those up to `bounds[i]` that no earlier bound holds; the last is open."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def add(self, other: Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
