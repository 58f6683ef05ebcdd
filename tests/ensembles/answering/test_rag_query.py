"""Passages without an answer."""

from __future__ import annotations

from typing import Any

import pytest

from backends.errors import InvalidRequest
from tests.ensembles.house import (
    GENERATOR,
    asked,
    built,
    whole,
)


async def test_a_query_gets_passages_scores_and_timings_and_nothing_is_generated() -> None:
    model, house = built("red")
    told = await whole(model, asked("/v1/rag/query", query="which is green?", max_num_results=2))
    assert (told["object"], told["query"], told["degraded"]) == ("rag.query", "which is green?", {})
    assert [passage["text"] for passage in told["passages"]] == [house.library.chunks[i].text for i in (1, 0)]
    assert told["passages"][0]["scores"].keys() == {"dense", "words", "fused", "rerank"}
    assert told["timings"].keys() == {"stores", "embed", "retrieve", "rerank", "total"}
    assert house.models[GENERATOR].asked == []


async def test_null_is_as_good_as_leaving_out() -> None:
    model, _ = built("red")
    fields = dict.fromkeys(("vector_store_ids", "messages", "filters", "max_num_results", "ranking_options"))
    told = await whole(model, asked("/v1/rag/query", query="which is green?", **fields))
    assert len(told["passages"]) == 3


@pytest.mark.parametrize("fields", [{}, {"query": ""}, {"query": " "}, {"query": "a", "max_num_results": 1001}])
async def test_a_query_that_is_wrong_is_refused(fields: dict[str, Any]) -> None:
    model, _ = built("red")
    with pytest.raises(InvalidRequest):
        await model.respond(asked("/v1/rag/query", **fields))
