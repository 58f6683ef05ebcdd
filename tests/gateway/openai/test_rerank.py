"""Rerank and score under every path that clients use."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_come_back_by_falling_relevance(path: str, http: httpx.Client) -> None:
    asked = {"model": "echo", "query": "a cat", "documents": ["a dog", "a cat", "nothing"], "top_n": 2}
    results = http.post(path, json=asked).json()["results"]
    assert len(results) == 2
    assert results[0]["index"] == 1
    assert results[0]["relevance_score"] > results[1]["relevance_score"]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_every_pair_has_a_score(path: str, http: httpx.Client) -> None:
    answer = http.post(path, json={"model": "echo", "text_1": "a cat", "text_2": ["a cat", "a dog"]}).json()
    assert [each["index"] for each in answer["data"]] == [0, 1]
