"""What a model that runs in the server process has instead of endpoints: nothing to start, to count or to close."""

from __future__ import annotations

from collections.abc import Mapping


class Endpointless:
    """That part of a `Model`. What its models do for it, they count themselves."""

    parallelism: int | None = None

    def work(self) -> Mapping[str, int]:
        return {}

    def connections(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        """Requests under way go on."""
