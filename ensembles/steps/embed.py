"""Makes the question's vector, by the embedder that the stores' vectors are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ensembles.options import read
from ensembles.step import Surroundings, Turn


class Options(msgspec.Struct, frozen=True):
    """`model` is for stores that do not say whose vectors they hold; `prefix` is what it wants before a question."""

    model: str = ""
    prefix: str = ""


def load(options: Mapping[str, Any], surroundings: Surroundings) -> Embed:
    return Embed(read(options, Options, "The step 'embed'"), surroundings)


class Embed:
    """Sets `vector`."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings

    async def run(self, turn: Turn) -> None:
        options = self._options
        model = turn.embedder or options.model
        (turn.vector,) = await self._surroundings.library.embed([options.prefix + turn.query], model)
