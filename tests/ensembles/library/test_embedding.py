"""Vectors by the OpenAI side of an embedder, whatever it answers."""

from __future__ import annotations

import pytest

from backends.config import ModelConfig
from backends.errors import InvalidRequest, Unavailable, UpstreamError, UpstreamProtocolError
from ensembles.library.embedding import embed
from tests.ensembles.library.shelf import EMBEDDER, Embedders, vector


async def test_vectors_come_in_the_order_of_the_texts():
    models = Embedders()
    assert await embed(models, EMBEDDER, ["apple", "boat", "pear"]) == [vector("apple"), vector("boat"), vector("pear")]
    assert models.embedder.answers[0].closed


async def test_vectors_in_numbers_are_read_too():
    models = Embedders()
    models.embedder.body = b'{"data": [{"index": 0, "embedding": [1, 0, 0.0, 0, 0]}]}'
    assert await embed(models, EMBEDDER, ["apple"]) == [vector("apple")]


async def test_a_query_is_named_one_where_the_model_has_a_prompt_for_it():
    models = Embedders()
    await embed(models, EMBEDDER, ["apple"], "query")
    models.embedder.config = ModelConfig(EMBEDDER, backend="toy", parameters={"prompt.query": "query: "})
    await embed(models, EMBEDDER, ["apple"], "query")
    await embed(models, EMBEDDER, ["apple"])
    assert [asked.get("prompt_name") for asked in models.embedder.asked] == [None, "query", None]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidRequest), (429, Unavailable), (503, Unavailable), (500, UpstreamError)]
)
async def test_a_refusal_says_what_the_embedder_said(status, kind):
    models = Embedders()
    models.embedder.status, models.embedder.body = status, b"too long"
    with pytest.raises(kind, match="too long"):
        await embed(models, EMBEDDER, ["apple"])


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"data": [{"index": 0, "embedding": "?"}]}', b'{"data": []}'])
async def test_an_answer_without_the_vectors_is_an_error_of_the_embedder(body):
    models = Embedders()
    models.embedder.body = body
    with pytest.raises(UpstreamProtocolError, match=EMBEDDER):
        await embed(models, EMBEDDER, ["apple"])
