"""`tritium eval` against a whole gateway: what it ingests is what its questions find."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Server
from tests.clients.rag_served import FRUIT, RagServed, serving_rag
from tests.servers import TRITIUM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagServed]:
    with serving_rag(tmp_path_factory.mktemp("rag")) as served:
        yield served


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    documents = [{"_id": name, "title": "", "text": text} for name, text in FRUIT.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": "1", "text": "what is sweet and long"}, {"_id": "2", "text": "what swims on water"}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tpears.md\t1\n2\tboats.md\t1\n")
    return tmp_path


def run(served: RagServed, dataset: Path, *flags: str) -> str:
    argv = [TRITIUM, "eval", "--dataset", str(dataset), "--store", "measured"]
    argv += ["--url", served.server.url, "--api-key", "alice-key", *flags]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_collection_is_ingested_once_and_measured(served: RagServed, dataset: Path) -> None:
    measured: dict[str, Any] = json.loads(run(served, dataset, "--json"))
    assert (measured["model"], measured["split"], measured["documents"], measured["queries"]) == ("fruit", "test", 3, 2)
    assert measured["ways"]["bm25"]["ndcg@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    # The echo engine's vectors know no meaning, but three documents are all found.
    assert {way: of["recall@10"]["mean"] for way, of in measured["ways"].items()} == dict.fromkeys(
        ("dense", "bm25", "hybrid", "reranked"), 1.0
    )
    assert "bm25" in run(served, dataset)
    assert served.alice.vector_stores.retrieve(measured["store"]).file_counts.total == 3


def test_files_keep_their_names_on_their_way(served: RagServed) -> None:
    server = Server(served.server.url, "alice-key")
    assert server.upload("Grüße; an (1) 量子.md", b"text")["filename"] == "Grüße; an (1) 量子.md"
    assert "\n" not in server.upload("two\nlines.md", b"text")["filename"]
