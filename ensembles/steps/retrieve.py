"""Finds passages by meaning and by words, both at the same time, and fuses the two orders."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from itertools import chain
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backends.errors import InvalidRequest, NotFound, ServingError, Unavailable
from ensembles.library.fusion import Found, fuse
from ensembles.options import read
from ensembles.step import Surroundings, Turn, reason
from ensembles.stores import filters
from ensembles.stores.filters import Compound, Filter
from ensembles.stores.store import Hit
from ensembles.together import together

Weight = Annotated[float, Meta(ge=0)]
_Look = Callable[[str], Coroutine[Any, Any, list[Hit]]]


class Options(msgspec.Struct, frozen=True):
    """`candidates` is how many each way finds and fusing leaves; of a way with weight 0 nothing is asked.

    `filters` hold for every question, beside the request's own.
    """

    candidates: Annotated[int, Meta(ge=1, le=1000)] = 50
    dense_weight: Weight = 1.0
    words_weight: Weight = 1.0
    filters: dict[str, Any] | None = None


def load(options: Mapping[str, Any], surroundings: Surroundings) -> Retrieve:
    chosen = read(options, Options, "The step 'retrieve'")
    if not chosen.dense_weight and not chosen.words_weight:
        raise InvalidRequest("The step 'retrieve': 'dense_weight' and 'words_weight' are both 0.", param="dense_weight")
    return Retrieve(chosen, surroundings)


class Retrieve:
    """Sets `passages`. Where one way fails the other's order stands, and `degraded` says so.

    What one way has found stands also when the step is cancelled before the other has answered.
    """

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings
        self._condition = None if options.filters is None else filters.read(options.filters)

    async def run(self, turn: Turn) -> None:
        dense_weight, words_weight = turn.weights or (self._options.dense_weight, self._options.words_weight)
        library = self._surroundings.library
        condition = _both(self._condition, turn.condition)
        count = max(self._options.candidates, turn.limit)
        found: list[Found] = []
        failures: list[ServingError] = []

        async def by_words() -> None:
            await way("words", words_weight, lambda store: library.words(store, turn.query, count, condition))

        async def by_meaning() -> None:
            await turn.embedded.wait()
            if turn.vector:
                await way("dense", dense_weight, lambda store: library.dense(store, turn.vector, count, condition))

        async def way(name: str, weight: float, look: _Look) -> None:
            try:
                hits = await together(map(look, turn.stores))
            except ServingError as error:
                failures.append(error)
                turn.degraded[name] = reason(error)
                return
            found.append(Found(name, weight, sorted(chain.from_iterable(hits), key=lambda hit: -hit.score)[:count]))

        ways = [by_words()] if words_weight else []
        try:
            await together([*ways, by_meaning()] if dense_weight else ways)
        finally:
            turn.passages = fuse(found, count)
        for failure in failures:
            if not found or isinstance(failure, InvalidRequest | NotFound):
                raise failure
        if not found:
            raise Unavailable("The question has no vector, and nothing else to search by.")


def _both(first: Filter | None, second: Filter | None) -> Filter | None:
    if first is None or second is None:
        return first or second
    return Compound("and", [first, second])
