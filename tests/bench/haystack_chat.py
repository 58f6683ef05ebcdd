"""A RAG chat as one writes it with Haystack; `rag_ttft.py` runs it in an environment of its own.

Reads one JSON object: `url` of a running server and the names of its `models`, `files` (the folders of the embedder and
the reranker where they are to run in this process, else null), `chunks`, `top_k`. Then a question a line, null at the
end; answers each by the milliseconds to its first text.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

import numpy as np
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
_BATCH = 8
_MOST_TOKENS = 256


@component
class ServedReranker:
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


class Encoder:
    """The token vectors of texts, by onnxruntime in this process with all of its processors."""

    def __init__(self, folder: str) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.enable_padding()
        # Its fused node takes ten times as long on a CPU: the served model is without it too.
        left_out = {"disabled_optimizers": ["SkipLayerNormFusion"]}
        self._session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", providers=["CPUExecutionProvider"], **left_out
        )
        self._inputs = [given.name for given in self._session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """An array of (tokens, dimensions) for each text; texts of similar lengths share a batch."""
        found: dict[int, Any] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            encoded = self._tokenizer.encode_batch([texts[i] for i in places])
            fields = {
                "input_ids": [each.ids for each in encoded],
                "attention_mask": [each.attention_mask for each in encoded],
                "token_type_ids": [each.type_ids for each in encoded],
            }
            given = {name: np.array(fields[name], np.int64) for name in self._inputs}
            vectors = self._session.run(None, given)[0]
            for i, row, each in zip(places, vectors, encoded, strict=True):
                found[i] = row[: sum(each.attention_mask)]
        return [found[i] for i in range(len(texts))]


@component
class OwnEmbedder:
    """Texts to vectors, in this process."""

    def __init__(self, folder: str) -> None:
        self._encode = Encoder(folder)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        return {"embedding": self.vectors([text])[0]}

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        pooled = [tokens.mean(axis=0) for tokens in self._encode(texts)]
        return [(vector / np.linalg.norm(vector)).tolist() for vector in pooled]


@component
class OwnReranker:
    """Orders documents by late interaction with the question, in this process."""

    def __init__(self, folder: str, top_k: int) -> None:
        self._encode = Encoder(folder)
        self._top_k = top_k

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, Any]:
        documents = documents[:RERANKED]
        question, *passages = map(_unit, self._encode([query, *(document.content for document in documents)]))
        scores = [float((question @ passage.T).max(axis=1).mean()) for passage in passages]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return {"documents": [documents[i] for i in order[: self._top_k]]}


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pipeline(
    url: str, models: dict[str, str], files: dict[str, str] | None, chunks: list[str], top_k: int, first: Any
) -> Pipeline:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    key = {"api_key": Secret.from_token("none"), "api_base_url": url}
    if files is None:
        embedder: Any = OpenAITextEmbedder(model=models["embedder"], **key)
        reranker: Any = ServedReranker(url, models["reranker"], top_k)
        served = OpenAIDocumentEmbedder(model=models["embedder"], progress_bar=False, **key)
        store.write_documents(served.run([Document(content=text) for text in chunks])["documents"])
    else:
        embedder = OwnEmbedder(files["embedder"])
        reranker = OwnReranker(files["reranker"], top_k)
        vectors = embedder.vectors(chunks)
        pairs = zip(chunks, vectors, strict=True)
        store.write_documents([Document(content=text, embedding=vector) for text, vector in pairs])
    made = Pipeline()
    made.add_component("embed", embedder)
    made.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=CANDIDATES))
    made.add_component("words", InMemoryBM25Retriever(store, top_k=CANDIDATES))
    made.add_component("fuse", DocumentJoiner(join_mode="reciprocal_rank_fusion"))
    made.add_component("rerank", reranker)
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
