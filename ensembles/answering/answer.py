"""What is told of a turn beside its answer: annotations, timings, what was done without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any

from backends.model import Headers, Pipelined
from ensembles.answering.citations import Citation, Markers, by_words
from ensembles.step import Passage, Turn
from ensembles.steps.cite import Cite

_DEGRADED = b"x-tritium-degraded"


def without(turn: Turn) -> Headers:
    """The header that says what was done without, if anything was."""
    degraded = ", ".join(f"{step}={why}" for step, why in turn.degraded.items())
    return ((_DEGRADED, degraded.encode("ascii", "replace")),) if degraded else ()


class Cited:
    """The passages of one turn as its answer cites them."""

    def __init__(self, turn: Turn, cite: Cite, pipelined: Pipelined) -> None:
        self.turn = turn
        self.pipelined = pipelined
        self._cite = cite
        self._asked_at = 0.0

    @property
    def passages(self) -> list[Passage]:
        """Those in the prompt, by their numbers."""
        return self.turn.shown

    def headers(self) -> Headers:
        """The fields that say at the answer's head what was done without."""
        return without(self.turn)

    def asked(self) -> None:
        """The generator is being asked."""
        self._asked_at = monotonic()

    def generated(self) -> None:
        """The generator has said all."""
        self.turn.timings["generate"] = monotonic() - self._asked_at

    def markers(self) -> Markers:
        return Markers(len(self.passages))

    def ended(self, markers: Markers) -> None:
        """A text is whole."""
        self.pipelined.unknown_markers += markers.unknown

    @property
    def matches_words(self) -> bool:
        """Whether an answer without a marker is to be looked at again when it is whole."""
        return bool(self.passages and self._cite.by_words)

    def by_words(self, text: str) -> Iterable[Citation]:
        return by_words(text, self.passages, self._cite.by_words) if self.matches_words else ()

    def url_citation(self, citation: Citation) -> dict[str, Any]:
        """A citation as chat has it; what is not OpenAI's stands beside."""
        passage = self.passages[citation.number - 1]
        fields = {
            "start_index": citation.start,
            "end_index": citation.end,
            "title": self._cite.title(passage),
            "url": self._cite.url(passage),
        }
        return {"type": "url_citation", "url_citation": fields, **_beside(citation, passage)}

    def file_citation(self, citation: Citation) -> dict[str, Any]:
        """A citation as Responses have it: `index` is where its marker, or what it is for, begins."""
        passage = self.passages[citation.number - 1]
        fields = {"type": "file_citation", "file_id": passage.chunk.file_id, "filename": passage.chunk.filename}
        return {**fields, "index": citation.start, **_beside(citation, passage)}

    def report(self) -> dict[str, Any]:
        """The turn, for the extension field `rag`. Times are seconds."""
        turn = self.turn
        return {
            "query": turn.query,
            "passages": [described(passage) for passage in turn.passages],
            "timings": {step: round(seconds, 6) for step, seconds in turn.timings.items()},
            "degraded": turn.degraded,
            "unknown_markers": self.pipelined.unknown_markers,
        }


def described(passage: Passage, *, text: bool = False) -> dict[str, Any]:
    """A passage for clients; its number is that of the markers."""
    chunk = passage.chunk
    fields: dict[str, Any] = {
        "number": passage.number or None,
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "ordinal": chunk.ordinal,
        "page": chunk.page,
        "heading": chunk.heading,
        "score": passage.score,
        "scores": passage.scores,
        "attributes": chunk.attributes,
    }
    return {**fields, "text": chunk.text} if text else fields


def search_results(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """Passages as the results of a file search."""
    return [
        {
            "file_id": passage.chunk.file_id,
            "filename": passage.chunk.filename,
            "score": passage.score,
            "text": passage.chunk.text,
            "attributes": passage.chunk.attributes,
        }
        for passage in passages
    ]


def _beside(citation: Citation, passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.chunk.file_id,
        "passage": passage.number,
        "cited_by": "words" if citation.by_words else "marker",
    }
