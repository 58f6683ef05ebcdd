"""The demo's handbook, on the demo's models: this project's documents are read at the first start, sources shown."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.servers import Tritium
from tests.waiting import eventually

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client(tritium_server: Tritium) -> openai.OpenAI:
    """A client once all documents are read."""
    client = openai.OpenAI(base_url=f"{tritium_server.url}/v1", api_key="none", timeout=120)

    read(client)
    return client


def read(client: openai.OpenAI) -> str:
    """The store's id, once all documents are read."""

    def is_read() -> bool:
        counts = [store.file_counts for store in client.vector_stores.list() if store.name == "handbook"]
        assert not any(each.failed for each in counts)
        return bool(counts) and counts[0].completed == counts[0].total == 5

    eventually(is_read, seconds=120, what="the documents are read")
    return next(store.id for store in client.vector_stores.list() if store.name == "handbook")


@pytest.mark.parametrize(
    ("question", "filename"),
    [
        ("How do I run the tests?", "README.md"),
        ("Which commands start a server of this project?", "README.md"),
        ("What must a change come with?", "CONTRIBUTING.md"),
        ("Why are permits divided among server processes?", "gateway/DECISIONS.md"),
    ],
)
def test_questions_find_the_document_that_answers_them(client: openai.OpenAI, question: str, filename: str) -> None:
    body = {"model": "handbook", "query": question, "max_num_results": 3}
    told: Any = client.post("/rag/query", body=body, cast_to=object)
    assert filename in {passage["filename"] for passage in told["passages"]}
    assert told["degraded"] == {}


def test_an_answer_streams_with_passages_that_fit_the_engines_context(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="handbook",
        messages=[{"role": "user", "content": "How do I run the tests?"}],
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"include_timings": True},
    )
    *_, last = stream
    usage, told = last.usage, last.model_extra["rag"]
    assert usage is not None
    assert 100 < usage.prompt_tokens < 2048 - 16
    assert any(passage["number"] for passage in told["passages"])


def test_documents_that_a_client_deletes_are_read_again(client: openai.OpenAI) -> None:
    store_id = read(client)
    for file in client.vector_stores.files.list(store_id):
        client.files.delete(file.id)
    client.vector_stores.delete(store_id)
    assert read(client) != store_id
