"""Ids that sort by the time of their making."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str, offset: int = 0) -> str:
    """An id that nobody can guess. Those that are made at once keep their order by `offset`."""
    return f"{prefix}{time.time_ns() // 1000 + offset:014x}{secrets.token_hex(9)}"
