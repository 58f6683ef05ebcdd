"""Passages for a question, for people who bring their own prompt: the steps of a pipeline up to the prompt."""

from __future__ import annotations

from time import monotonic
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backends.errors import InvalidRequest
from backends.model import OpenAIRequest
from ensembles.answering.answer import Cited, described
from ensembles.answering.chain import Chain
from ensembles.answering.search_options import Search
from ensembles.options import decode
from ensembles.texts import text_of

_MOST_PASSAGES = 1000


class RagQuery(Search, kw_only=True):
    """A question; `messages` are the conversation before it, for pipelines that rewrite.

    No model has to read the passages, so that there may be more of them than OpenAI's search gives.
    """

    model: str
    query: Annotated[str, Meta(min_length=1)]
    max_num_results: Annotated[int, Meta(ge=1, le=_MOST_PASSAGES)] | None = None
    messages: list[dict[str, Any]] | None = None


async def query(chain: Chain, request: OpenAIRequest) -> tuple[Cited, bytes]:
    """The passages, and the same as JSON. Raises `InvalidRequest` and what steps raise."""
    began = monotonic()
    asked = decode(request.body, RagQuery, "The query")
    if not asked.query.strip():
        raise InvalidRequest("'query' is empty.", param="query")
    messages = [message for message in asked.messages or () if text_of(message.get("content"))]
    turn = await chain.turn(request, [*messages, {"role": "user", "content": asked.query}], asked.query, asked)
    cited = await chain.retrieve(turn)
    report = cited.report()
    answer = {
        "object": "rag.query",
        "model": asked.model,
        "query": turn.query,
        "passages": [described(passage, text=True) for passage in turn.passages],
        "timings": report["timings"] | {"total": round(monotonic() - began, 6)},
        "degraded": turn.degraded,
    }
    return cited, msgspec.json.encode(answer)
