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
    backwards = bool(part.before) and not part.after
    descending = (part.order == "desc") is not backwards
    cursor = part.before if backwards else part.after
    if cursor:
        query = query.where(key < cursor if descending else key > cursor)
    query = query.order_by(key.desc() if descending else key.asc()).limit(part.limit + 1)
    found = (await connection.execute(query)).all()
    rows = found[: part.limit]
    return rows[::-1] if backwards else rows, len(found) > part.limit
