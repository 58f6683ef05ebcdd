"""Files that go into their store together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from backends.errors import InvalidRequest
from ensembles.ingest.index import Indexer
from ensembles.library.jobs import Finished
from ensembles.records.rows import Chunking, Job
from tests.processes import holds


def finished(name: str, store: str = "s") -> Finished:
    return Finished(Job(name, "", store, name, name, 0, "", {}, Chunking(), "", name, 1), [])


class Library:
    """Completes groups as it is allowed to. The store does not take `refused` files, the claims of `lost` ones are."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.allowed = asyncio.Semaphore(0)
        self.refused: set[str] = set()
        self.lost: set[str] = set()
        self.fault: Exception | None = None

    async def complete(self, group: Sequence[Finished]) -> list[bool]:
        names = [each.job.file_id for each in group]
        self.groups.append(names)
        await self.allowed.acquire()
        if self.fault is not None:
            raise self.fault
        if found := self.refused & set(names):
            raise InvalidRequest(f"{min(found)} does not fit.")
        return [name not in self.lost for name in names]

    def allow(self) -> None:
        for _ in range(20):
            self.allowed.release()


def index(indexer: Indexer, *names: str, store: str = "s") -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(indexer.index(finished(name, store))) for name in names]


async def changing(library: Library) -> tuple[Indexer, asyncio.Task[bool]]:
    """An indexer that puts the file 'a' into its store, as long as the library does not allow it to end."""
    indexer = Indexer(library.complete)
    (task,) = index(indexer, "a")
    await holds(lambda: library.groups == [["a"]])
    return indexer, task


async def test_what_comes_while_a_store_is_changed_is_its_next_change() -> None:
    library = Library()
    indexer, first = await changing(library)
    tasks = [first, *index(indexer, "b", "c")]
    other = index(indexer, "d", store="t")
    await holds(lambda: library.groups == [["a"], ["d"]])
    library.lost = {"c"}
    library.allow()
    assert await asyncio.gather(*tasks, *other) == [True, True, False, True]
    assert library.groups == [["a"], ["d"], ["b", "c"]]
    assert await asyncio.gather(*index(indexer, "e")) == [True]
    await indexer.close()


async def test_what_the_store_refuses_harms_no_other_file() -> None:
    library = Library()
    library.refused = {"c"}
    indexer, first = await changing(library)
    tasks = [first, *index(indexer, "b", "c", "d")]
    await asyncio.sleep(0)
    library.allow()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(each) for each in told] == ["True", "True", "c does not fit.", "True"]
    await indexer.close()


async def test_a_fault_is_told_to_all_and_the_next_file_is_taken() -> None:
    library = Library()
    library.fault = LookupError("a fault of ours")
    library.allow()
    indexer = Indexer(library.complete)
    told = await asyncio.gather(*index(indexer, "a", "b"), return_exceptions=True)
    assert [str(each) for each in told] == ["a fault of ours"] * 2
    library.fault = None
    assert await asyncio.gather(*index(indexer, "c")) == [True]
    await indexer.close()


async def test_a_file_that_is_taken_back_before_its_turn_is_not_put() -> None:
    library = Library()
    indexer, first = await changing(library)
    second, third = index(indexer, "b", "c")
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait((second,))
    library.allow()
    assert await asyncio.gather(first, third) == [True, True]
    assert library.groups == [["a"], ["c"]]
    await indexer.close()


async def test_closing_cancels_what_is_under_way_and_what_waits() -> None:
    library = Library()
    indexer, first = await changing(library)
    tasks = [first, *index(indexer, "b")]
    await asyncio.sleep(0)
    await indexer.close()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task
