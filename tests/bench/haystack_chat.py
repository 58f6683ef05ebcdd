"""A RAG chat as one writes it with Haystack, on the models of a running server; `rag_ttft.py` runs it in its own venv.

Reads one JSON object: `url`, `models`, `chunks`, `top_k`. Then a question a line, null at the end; answers each by the
milliseconds to its first text.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import urllib.request
from typing import Any

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from haystack import Document, Pipeline, component
from haystack.components.builders import ChatPromptBuilder
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

PROMPT = """Answer the question from the passages and name the number of each that you use, like [1].
{% for document in documents %}
[{{ loop.index }}] {{ document.content }}
{% endfor %}
Question: {{ question }}"""
CANDIDATES = 50
RERANKED = 20


@component
class Reranker:
    """Orders documents by the server's `/v1/rerank`."""

    def __init__(self, url: str, model: str, top_k: int) -> None:
        self._url, self._model, self._top_k = url, model, top_k

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, Any]:
        texts = [document.content for document in documents[:RERANKED]]
        body = json.dumps({"model": self._model, "query": query, "documents": texts, "top_n": self._top_k}).encode()
        request = urllib.request.Request(f"{self._url}/rerank", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            results = json.load(answer)["results"]
        return {"documents": [documents[result["index"]] for result in results]}


def pipeline(url: str, models: dict[str, str], chunks: list[str], top_k: int, first: Any) -> Pipeline:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    key = {"api_key": Secret.from_token("none"), "api_base_url": url}
    embedder = OpenAIDocumentEmbedder(model=models["embedder"], progress_bar=False, **key)
    store.write_documents(embedder.run([Document(content=text) for text in chunks])["documents"])
    made = Pipeline()
    made.add_component("embed", OpenAITextEmbedder(model=models["embedder"], **key))
    made.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=CANDIDATES))
    made.add_component("words", InMemoryBM25Retriever(store, top_k=CANDIDATES))
    made.add_component("fuse", DocumentJoiner(join_mode="reciprocal_rank_fusion"))
    made.add_component("rerank", Reranker(url, models["reranker"], top_k))
    made.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user(PROMPT)], required_variables="*"))
    options = {"max_tokens": 8, "temperature": 0}
    generator = OpenAIChatGenerator(
        model=models["generator"], streaming_callback=first, generation_kwargs=options, **key
    )
    made.add_component("generate", generator)
    made.connect("embed.embedding", "dense.query_embedding")
    made.connect("dense", "fuse")
    made.connect("words", "fuse")
    made.connect("fuse", "rerank.documents")
    made.connect("rerank", "prompt.documents")
    made.connect("prompt", "generate")
    return made


def main() -> None:
    logging.getLogger("haystack").setLevel(logging.ERROR)  # it warns of each answer that `max_tokens` ends
    came: list[float] = []
    asked = json.loads(sys.stdin.readline())
    made = pipeline(**asked, first=lambda chunk: came.append(time.perf_counter()) if chunk.content else None)
    for line in sys.stdin:
        if (question := json.loads(line)) is None:
            return
        came.clear()
        began = time.perf_counter()
        made.run(
            {
                "embed": {"text": question},
                "words": {"query": question},
                "rerank": {"query": question},
                "prompt": {"question": question},
            }
        )
        print(1000 * (came[0] - began), flush=True)


if __name__ == "__main__":
    main()
