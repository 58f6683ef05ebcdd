"""Says how an answer's citations are told: where a passage is from, and whether likeness may stand for a marker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta

from backends.errors import InvalidRequest
from ensembles.options import read
from ensembles.step import Passage, Surroundings

_URL = "/v1/files/{file_id}/content"


class Options(msgspec.Struct, frozen=True):
    """`url` is where a passage can be read, with {file_id}, {filename} and {page}; a file's attribute `url` goes first.

    `by_words` is the share of a sentence's words that a passage must hold to be its citation where the answer has no
    marker, 0: none is cited so.
    """

    url: str = _URL
    by_words: Annotated[float, Meta(ge=0, le=1)] = 0.6


def load(options: Mapping[str, Any], surroundings: Surroundings) -> Cite:  # noqa: ARG001  # every step's
    chosen = read(options, Options, "The step 'cite'")
    try:
        chosen.url.format(file_id="", filename="", page="")
    except (LookupError, ValueError) as error:
        raise InvalidRequest(
            f"The step 'cite': the option 'url' has a field other than file_id, filename, page: {error}.", param="url"
        ) from error
    return Cite(chosen)


class Cite:
    """Sources for people: a title and an address for each passage."""

    def __init__(self, options: Options) -> None:
        self._url = options.url
        self.by_words = options.by_words

    def title(self, passage: Passage) -> str:
        chunk = passage.chunk
        where = chunk.heading.rpartition(" > ")[2] if chunk.page is None else f"page {chunk.page}"
        return f"{chunk.filename}, {where}" if where else chunk.filename

    def url(self, passage: Passage) -> str:
        chunk = passage.chunk
        own = chunk.attributes.get("url")
        if isinstance(own, str) and own:
            return own
        page = "" if chunk.page is None else str(chunk.page)
        return self._url.format(file_id=quote(chunk.file_id), filename=quote(chunk.filename), page=page)
