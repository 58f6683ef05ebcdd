"""How rows deleted from a LanceDB table leave the disk: their fragments are marked, and later rewritten.

Lance deletes a row by noting its number, and compaction rewrites a fragment only once a tenth of it is gone. So a
deletion marks the fragments it took rows from with tags, and `erase` moves a tenth of such a fragment elsewhere, which
the next compaction then rewrites without the rows. Versions that still have them go with their retention.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import lancedb

_PREFIX = "deleted-"
_MOVED_PART = 0.125
_FRAGMENT_BITS = 32  # a row's address: its fragment's number, then its place there


class Change(Protocol):
    version: int


async def marking(
    table: lancedb.AsyncTable,
    where: str,
    change: Callable[[], Awaitable[Change]],
    at: Callable[[int], Awaitable[lancedb.AsyncTable]],
) -> None:
    """Make a change that deletes the rows of a condition, with their fragments marked.

    `at` opens the table as it was at a version. Marked before, so that a kill between the two leaves too many marks;
    where others changed the table meanwhile, rows may have moved, and are marked where the change found them.
    """
    before = await table.version()
    await _mark(table, await _fragments(table, where))
    version = (await change()).version
    if version > before + 1:
        await _mark(table, await _fragments(await at(version - 1), where))


async def erase(table: lancedb.AsyncTable, after: timedelta) -> None:
    """Have the next compaction rewrite all marked fragments, if one was marked as long ago as `after`."""
    marks = [_parsed(tag) for tag in await table.tags.list() if tag.startswith(_PREFIX)]
    if not any(time.time() - minute * 60 >= after.total_seconds() for _, minute in marks):
        return
    places: defaultdict[int, list[int]] = defaultdict(list)
    marked = {fragment for fragment, _ in marks}
    for address in await _addresses(table):
        if address >> _FRAGMENT_BITS in marked:
            places[address >> _FRAGMENT_BITS].append(address)
    if places:
        moved = " OR ".join(f"(_rowaddr BETWEEN {low} AND {high})" for low, high in map(_part, places.values()))
        await table.update(updates_sql={"ordinal": "ordinal"}, where=moved)
    for fragment, minute in marks:
        await table.tags.delete(_named(fragment, minute))


def _part(addresses: list[int]) -> tuple[int, int]:
    addresses.sort()
    return addresses[0], addresses[int(len(addresses) * _MOVED_PART)]


async def _mark(table: lancedb.AsyncTable, fragments: Iterable[int]) -> None:
    for fragment in fragments:
        try:
            await table.tags.create(_named(fragment, int(time.time() // 60)), await table.version())
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise


async def _fragments(table: lancedb.AsyncTable, where: str) -> set[int]:
    return {address >> _FRAGMENT_BITS for address in await _addresses(table, where)}


async def _addresses(table: lancedb.AsyncTable, where: str = "") -> list[int]:
    query = table.query().select(["_rowaddr"])
    rows = await (query.where(where) if where else query).to_arrow()
    addresses: list[int] = rows["_rowaddr"].to_pylist()
    return addresses


def _named(fragment: int, minute: int) -> str:
    return f"{_PREFIX}{fragment}-{minute}"


def _parsed(tag: str) -> tuple[int, int]:
    fragment, minute = tag.removeprefix(_PREFIX).split("-")
    return int(fragment), int(minute)
