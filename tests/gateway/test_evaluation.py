import json
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from gateway.beir import Dataset
from gateway.client import ServerError
from gateway.evaluation import evaluate, show

DATASET = Dataset(
    {"a/1": "lift", "b": "drag", "c": "heat"},
    {"q1": "lift and drag", "q2": "heat"},
    {"q1": {"a/1": 1, "b": 1}, "q2": {"c": 1}},
)
ORDERS = {
    "dense": ["b", "c", "b", "a/1"],
    "bm25": ["c", "b", "a/1"],
    "hybrid": ["b", "a/1", "c"],
    "reranked": ["a/1", "b", "c"],
}


class FakeServer:
    """A server with one pipeline that finds the same for every question; lists come one entry a page."""

    def __init__(self, *, degraded=(), failed=0, reranker=True, models=("talker", "rag")):
        self.degraded = list(degraded)
        self.failed = failed
        self.reranker = reranker
        self.models = models
        self.stores = [{"id": "vs_0", "name": "other"}]
        self.files = []
        self.names = []
        self.asked = []

    def upload(self, filename, content):
        self.names.append((filename, content.decode()))
        return {"id": f"file-{len(self.names)}"}

    def get(self, path):
        parts = urlsplit(path)
        if parts.path == "/v1/models":
            return {"data": [{"id": name, "capabilities": ["retrieve"] * (name == "rag")} for name in self.models]}
        if parts.path.endswith("/files") and "filter" in parts.query:
            return {"data": [{"last_error": {"message": "no text in it"}}][: self.failed]}
        if parts.path == "/v1/vector_stores/vs_1":
            counts = {"total": len(self.files), "in_progress": 0, "failed": self.failed, "cancelled": 0}
            return {"file_counts": counts}
        entries = self.files if parts.path.endswith("/files") else self.stores
        place = int(parse_qs(parts.query).get("after", ["0"])[0])
        page = entries[place : place + 1]
        return {"data": page, "has_more": place + 1 < len(entries), "last_id": str(place + 1)}

    def post(self, path, body):
        asked = json.loads(body)
        if path == "/v1/vector_stores":
            self.stores.append({"id": "vs_1", "name": asked["name"]})
            return self.stores[-1]
        if path.endswith("/file_batches"):
            self.files += [{"id": each["file_id"], "attributes": each["attributes"]} for each in asked["files"]]
            return {}
        self.asked.append(asked)
        ranking = asked["ranking_options"]
        weights = ranking.get("hybrid_search")
        way = "reranked" if ranking["ranker"] == "auto" else "hybrid"
        if weights:
            way = "dense" if weights["embedding_weight"] else "bm25"
        scores = {"rerank": 1.0} if way == "reranked" and self.reranker else {}
        passages = [{"attributes": {"document": document}, "scores": scores} for document in ORDERS[way]]
        return {"passages": passages, "degraded": self.degraded.pop() if self.degraded else {}}


def run(server, **options):
    return evaluate(
        server, DATASET, **{"store": "s", "model": "", "clients": 2, "output": Console(quiet=True), **options}
    )


def test_each_way_is_measured_by_documents_in_the_order_of_their_best_passage():
    server = FakeServer()
    ways = run(server)["ways"]
    assert ways.keys() == {"dense", "bm25", "hybrid", "reranked"}
    # q1 has b first and a/1 third, since passages of one document count once; q2 has c second.
    second, third = 0.6309297, 0.5
    assert ways["dense"]["ndcg@10"]["mean"] == pytest.approx(((1 + third) / (1 + second) + second) / 2)
    assert ways["reranked"]["ndcg@10"]["mean"] == pytest.approx((1 + third) / 2)
    assert {of["recall@10"]["mean"] for of in ways.values()} == {1.0}
    assert {asked["model"] for asked in server.asked} == {"rag"}


def test_gains_are_of_the_same_questions():
    gains = run(FakeServer())["gains"]
    assert gains.keys() == {"hybrid over dense", "hybrid over bm25", "reranked over hybrid"}
    assert gains["reranked over hybrid"] == {"mean": 0, "low": 0, "high": 0}


def test_documents_become_files_that_are_named_after_them_and_told_apart_by_an_attribute():
    server = FakeServer()
    run(server)
    assert sorted(server.names) == [("a%2F1.md", "lift"), ("b.md", "drag"), ("c.md", "heat")]
    assert {file["attributes"]["document"] for file in server.files} == DATASET.documents.keys()


def test_what_the_store_has_already_is_not_ingested_again():
    server = FakeServer()
    run(server)
    run(server)
    assert len(server.names) == len(server.files) == 3
    assert len(server.stores) == 2


def test_without_a_reranker_there_is_nothing_reranked():
    measured = run(FakeServer(reranker=False))
    assert "reranked" not in measured["ways"]
    assert measured["gains"].keys() == {"hybrid over dense", "hybrid over bm25"}


def test_an_answer_without_a_part_of_the_pipeline_measures_nothing():
    with pytest.raises(ServerError, match=r"'q1' was answered without a part of the pipeline: .*deadline"):
        run(FakeServer(degraded=[{"rerank": "deadline"}] * 3), clients=1)


def test_a_deadline_that_was_missed_once_is_no_answer():
    server = FakeServer(degraded=[{"rerank": "deadline"}] * 2)
    assert run(server, clients=1)["ways"]["dense"]["recall@10"]["mean"] == 1.0
    assert len(server.asked) == 4 * 2 + 2


def test_documents_that_cannot_be_ingested_end_it():
    with pytest.raises(ServerError, match="1 documents could not be ingested: no text in it"):
        run(FakeServer(failed=1))


def test_a_server_without_pipelines_is_refused():
    with pytest.raises(ServerError, match="No RAG pipeline is served"):
        run(FakeServer(models=("talker",)))


def test_the_table_has_a_row_a_way_with_its_interval(capsys):
    show(run(FakeServer()), Console(width=120))
    told = capsys.readouterr().out
    assert "2 queries, 3 documents, model rag" in told
    assert ".750 (.500–1.000)" in told
    assert "reranked over hybrid: .000 (+.000 to +.000) ndcg@10" in told
