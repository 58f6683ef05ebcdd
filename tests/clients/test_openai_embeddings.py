"""Embeddings, rerank and score: MiniLM in vLLM's pooling runner, through OpenAI's client."""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.clients.served import EMBEDDER, Served

pytestmark = pytest.mark.engine

DOCUMENTS = ["The stock market fell sharply.", "A kitten sleeps on the sofa.", "Ships sail to the harbour."]
QUERY = "a small cat"


@pytest.fixture
def embedder(vllm: Served) -> Iterator[openai.OpenAI]:
    with vllm.openai() as client:
        yield client


def near(one: list[float], other: list[float]) -> bool:
    return sum(a * b for a, b in zip(one, other, strict=True)) > 0.9999


def test_texts_become_vectors_of_length_one(embedder: openai.OpenAI, vllm: Served) -> None:
    answer = embedder.embeddings.create(model=EMBEDDER, input=DOCUMENTS)
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert {len(each.embedding) for each in answer.data} == {384}
    assert all(math.isclose(math.hypot(*each.embedding), 1, abs_tol=1e-3) for each in answer.data)
    counts = [vllm.post("/tokenize", EMBEDDER, prompt=text)["count"] for text in DOCUMENTS]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(counts)


async def test_an_asynchronous_client_embeds(vllm: Served) -> None:
    async with vllm.openai_async() as client:
        answer = await client.embeddings.create(model=EMBEDDER, input=QUERY)
    assert len(answer.data[0].embedding) == 384


def test_base64_and_numbers_are_the_same_vector(embedder: openai.OpenAI) -> None:
    numbers = embedder.embeddings.create(model=EMBEDDER, input=QUERY, encoding_format="float").data[0].embedding
    answer: Any = embedder.embeddings.create(model=EMBEDDER, input=QUERY, encoding_format="base64")
    packed: str = answer.data[0].embedding
    unpacked = array("f", base64.b64decode(packed)).tolist()
    decoded_by_client = embedder.embeddings.create(model=EMBEDDER, input=QUERY).data[0].embedding
    assert numbers == pytest.approx(unpacked, abs=1e-6)
    assert decoded_by_client == pytest.approx(unpacked, abs=1e-6)


def test_token_ids_are_an_input(embedder: openai.OpenAI, vllm: Served) -> None:
    tokens = vllm.post("/tokenize", EMBEDDER, prompt=QUERY)["tokens"]
    text = embedder.embeddings.create(model=EMBEDDER, input=QUERY).data[0].embedding
    one = embedder.embeddings.create(model=EMBEDDER, input=tokens)
    several = embedder.embeddings.create(model=EMBEDDER, input=[tokens, tokens])
    assert all(near(text, each.embedding) for each in (*one.data, *several.data))
    assert several.usage.prompt_tokens == 2 * len(tokens)


def test_many_inputs_keep_their_order(embedder: openai.OpenAI) -> None:
    texts = [f"Document number {number} about {QUERY if number == 77 else 'ships'}." for number in range(100)]
    vectors = [each.embedding for each in embedder.embeddings.create(model=EMBEDDER, input=texts).data]
    assert len(vectors) == 100
    alone = embedder.embeddings.create(model=EMBEDDER, input=texts[77]).data[0].embedding
    assert near(vectors[77], alone)
    assert not near(vectors[76], alone)


def test_dimensions_that_the_model_has_not_are_refused(embedder: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        embedder.embeddings.create(model=EMBEDDER, input=QUERY, dimensions=64)


def test_an_input_over_the_context_is_refused_with_the_limit(embedder: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="256 tokens"):
        embedder.embeddings.create(model=EMBEDDER, input="again " * 400)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_are_ordered_by_relevance(vllm: Served, path: str) -> None:
    answer = vllm.post(path, EMBEDDER, query=QUERY, documents=DOCUMENTS)
    scores = [result["relevance_score"] for result in answer["results"]]
    assert answer["results"][0]["index"] == 1
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]
    (best,) = vllm.post(path, EMBEDDER, query=QUERY, documents=DOCUMENTS, top_n=1)["results"]
    assert best["index"] == 1


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_pairs_are_scored(vllm: Served, path: str) -> None:
    one_to_many = vllm.post(path, EMBEDDER, text_1=QUERY, text_2=DOCUMENTS)["data"]
    pairs = vllm.post(path, EMBEDDER, text_1=[QUERY] * 3, text_2=DOCUMENTS)["data"]
    assert [each["index"] for each in one_to_many] == [0, 1, 2]
    assert max(one_to_many, key=lambda each: each["score"])["index"] == 1
    scores = [each["score"] for each in pairs]
    assert [each["score"] for each in one_to_many] == pytest.approx(scores, abs=1e-4)
    ranked = vllm.post("/v1/rerank", EMBEDDER, query=QUERY, documents=DOCUMENTS)["results"]
    by_index = {result["index"]: result["relevance_score"] for result in ranked}
    assert [by_index[index] for index in range(3)] == pytest.approx(scores, abs=1e-4)
