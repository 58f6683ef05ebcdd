"""Cuts passages down to the sentences that bear on the question: a generator computes its prompt token by token.

Extractive compression (Xu et al., RECOMP, ICLR 2024), with the reranker as the judge of sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ensembles.options import read
from ensembles.ranking import scores
from ensembles.sentences import sentences
from ensembles.step import Surroundings, Turn

_LEFT_OUT = "\n…\n"

Span = tuple[int, int]


class Options(msgspec.Struct, frozen=True):
    """`model` scores the sentences; `characters` are what a passage has left, on average over those of a turn."""

    model: str
    characters: Annotated[int, Meta(ge=1)] = 350


def load(options: Mapping[str, Any], surroundings: Surroundings) -> Excerpt:
    return Excerpt(read(options, Options, "The step 'excerpt'"), surroundings)


class Excerpt:
    """Sets `excerpt` of the passages, each of which keeps its best sentence; all of them where they have room."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings

    async def run(self, turn: Turn) -> None:
        texts = [passage.chunk.text for passage in turn.passages]
        room = self._options.characters * len(texts)
        if sum(map(len, texts)) <= room:
            return
        spans = [sentences(text) for text in texts]
        said = [text[start:end] for text, found in zip(texts, spans, strict=True) for start, end in found]
        given = iter(await scores(self._surroundings, self._options.model, turn, said))
        scored = [[next(given) for _ in found] for found in spans]
        for passage, found, kept in zip(turn.passages, spans, chosen(spans, scored, room), strict=True):
            passage.excerpt = joined(passage.chunk.text, [found[place] for place in sorted(kept)])


def chosen(spans: Sequence[Sequence[Span]], scored: Sequence[Sequence[float]], room: int) -> list[set[int]]:
    """Which sentences of each text stay: its best one, then the best of all as long as there is room."""
    kept: list[set[int]] = [{max(range(len(row)), key=row.__getitem__)} if row else set() for row in scored]
    left = room - sum(_length(spans[text][place]) for text, places in enumerate(kept) for place in places)
    order = sorted((-score, text, place) for text, row in enumerate(scored) for place, score in enumerate(row))
    for _, text, place in order:
        if place not in kept[text] and (length := _length(spans[text][place])) <= left:
            kept[text].add(place)
            left -= length
    return kept


def joined(text: str, spans: Sequence[Span]) -> str:
    """These parts of a text. Those that follow each other are as they were, and a mark stands for what is left out."""
    said = ""
    last = 0
    for start, end in spans:
        between = text[last:start]
        said += (between if not between.strip() else _LEFT_OUT) if said else ""
        said += text[start:end]
        last = end
    return said


def _length(span: Span) -> int:
    return span[1] - span[0]
