"""The background optimiser: after bursts, amid long ones, and again after a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from backends.errors import NotFound, ServingError, Unavailable
from ensembles.ingest.optimise import Optimiser
from tests.processes import holds


class Library:
    """Notes what is optimised; fails with `errors` first."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stores: list[str] = []
        self.errors: list[ServingError] = []
        self.takes_seconds = 0.0

    async def optimise(self, store_id: str) -> None:
        if self.errors:
            raise self.errors.pop()
        await asyncio.sleep(self.takes_seconds)
        self.done.append(store_id)

    async def collections(self) -> list[str]:
        if self.errors:
            raise self.errors.pop()
        return self.stores


@pytest.fixture
def library() -> Library:
    return Library()


@asynccontextmanager
async def optimising(library: Library, **options: float) -> AsyncIterator[Callable[[str, int], None]]:
    optimiser = Optimiser(library, look_seconds=0.01, **options)
    running = asyncio.create_task(optimiser.run())
    try:
        yield optimiser.note
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.wait((running,))


async def test_a_burst_is_optimised_once_when_it_is_over(library):
    async with optimising(library, quiet_seconds=0.1) as note:
        for _ in range(5):
            note("a", 1)
            await asyncio.sleep(0.02)
        assert library.done == []
        await holds(lambda: library.done == ["a"])
        await asyncio.sleep(0.2)
        assert library.done == ["a"]


async def test_a_long_burst_is_optimised_meanwhile(library):
    async with optimising(library, quiet_seconds=60) as note:
        note("a", 999)
        note("b", 1000)
        await holds(lambda: library.done == ["b"])


async def test_a_store_that_takes_long_rests_twice_as_long(library):
    library.takes_seconds = 0.1
    async with optimising(library, quiet_seconds=60) as note:
        note("a", 1000)
        await holds(lambda: library.done == ["a"])
        began_at = monotonic()
        for _ in range(32):
            note("a", 1)
        await holds(lambda: library.done == ["a", "a"])
        assert monotonic() - began_at > 0.25


async def test_all_stores_are_optimised_soon_after_the_start_and_now_and_then(library):
    library.stores = ["a", "b"]
    async with optimising(library, first_round_seconds=0, round_seconds=0.05):
        await holds(lambda: library.done == ["a", "b", "a", "b"])


async def test_a_database_that_is_out_is_asked_again(library):
    library.stores, library.errors = ["a"], [Unavailable("out")]
    async with optimising(library, first_round_seconds=0, round_seconds=0.01):
        await holds(lambda: library.done[:1] == ["a"])


async def test_a_store_that_is_out_is_tried_again(library):
    library.errors = [Unavailable("out"), Unavailable("out")]
    async with optimising(library, quiet_seconds=0) as note:
        note("a", 1)
        await holds(lambda: library.done == ["a"])


async def test_a_store_that_was_deleted_is_forgotten(library):
    library.errors = [NotFound("gone")]
    async with optimising(library, quiet_seconds=0) as note:
        note("a", 1)
        await holds(lambda: library.errors == [])
        await asyncio.sleep(0.05)
    assert library.done == []
