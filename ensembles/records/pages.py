"""A page of a list: rows beyond a cursor, in the order of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from ensembles.records.rows import Range


async def page(
    connection: AsyncConnection, query: Select[Any], key: Column[str], part: Range
) -> tuple[Sequence[Row[Any]], bool]:
    """The rows of `query` in this part of it, and whether there are more that way. `after` and `before` are keys."""
    descending = part.order == "desc"
    if part.after:
        query = query.where(key < part.after if descending else key > part.after)
    if part.before:
        query = query.where(key > part.before if descending else key < part.before)
    backwards = bool(part.before) and not part.after
    if backwards:
        descending = not descending
    query = query.order_by(key.desc() if descending else key.asc()).limit(part.limit + 1)
    found = (await connection.execute(query)).all()
    rows = found[: part.limit]
    return rows[::-1] if backwards else rows, len(found) > part.limit
