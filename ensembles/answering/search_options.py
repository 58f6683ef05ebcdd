"""How a request says what is searched: the fields of OpenAI's file search tool."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

FILE_SEARCH = "file_search"
MOST_RESULTS = 50

Weight = Annotated[float, Meta(ge=0)]
StoreId = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]


class HybridSearch(msgspec.Struct, frozen=True):
    """What meaning and words count for."""

    embedding_weight: Weight = 1.0
    text_weight: Weight = 1.0


class RankingOptions(msgspec.Struct, frozen=True):
    """`ranker` is OpenAI's: `auto`, `none` (the reranker is left out) or the name of a version of theirs."""

    ranker: str | None = None
    score_threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    hybrid_search: HybridSearch | None = None


class Search(msgspec.Struct):
    """The stores, and which passages of them are wanted; nothing given: as the pipeline has it."""

    vector_store_ids: list[StoreId] | None = None
    max_num_results: Annotated[int, Meta(ge=1, le=MOST_RESULTS)] | None = None
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def asks_for_file_search(body: bytes) -> bool:
    """Whether the tools of a request, if it is one, hold a file search."""
    if b'"file_search"' not in body:
        return False
    try:
        tools = msgspec.json.decode(_decode_fields(body).get("tools", b"null"))
    except msgspec.DecodeError:
        return False
    return isinstance(tools, list) and any(isinstance(tool, dict) and tool.get("type") == FILE_SEARCH for tool in tools)
