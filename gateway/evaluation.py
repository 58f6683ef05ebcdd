"""`tritium eval`: how well a pipeline of a running server finds what a test collection says is to be found.

The collection is ingested as any documents are, and the pipeline is asked as any client asks it: what is measured is
what is served.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gateway import beir
from gateway.client import Server, ServerError
from gateway.relevance import estimate, ndcg, recall

WAYS: dict[str, dict[str, Any]] = {
    "dense": {"ranker": "none", "hybrid_search": {"embedding_weight": 1, "text_weight": 0}},
    "bm25": {"ranker": "none", "hybrid_search": {"embedding_weight": 0, "text_weight": 1}},
    "hybrid": {"ranker": "none"},
    "reranked": {"ranker": "auto"},
}
MEASURES: dict[str, Callable[[Sequence[str], Mapping[str, int]], float]] = {
    "ndcg@10": lambda found, grades: ndcg(found, grades, 10),
    "recall@10": lambda found, grades: recall(found, grades, 10),
    "recall@100": lambda found, grades: recall(found, grades, 100),
}
_ATTRIBUTE = "document"
# A document may be several passages.
_PASSAGES = 300
_FILES_A_BATCH = 500
_POLL_SECONDS = 0.5
# A busy machine misses a step's deadline now and then.
_ATTEMPTS = 3

Item = TypeVar("Item")
Result = TypeVar("Result")
Found = tuple[list[str], float, bool]
"""Documents, best first; how many seconds that took; whether a reranker had a say."""


def evaluate(
    server: Server, dataset: beir.Dataset, *, store: str, model: str, clients: int, output: Console
) -> dict[str, Any]:
    """What was measured, as JSON. The vector store named `store` is made, and what it lacks of the documents ingested.

    `model` is the pipeline, the first that is served where it is empty. Raises `ServerError`, also where a question
    was answered without a part of the pipeline.
    """
    name = model or _pipeline(server)
    with _progress(output) as progress:
        store_id = _fill(server, dataset.documents, store, clients, progress)
        found = {way: _ask_all(server, dataset.queries, name, store_id, way, clients, progress) for way in WAYS}
    if not any(is_reranked for _, _, is_reranked in found["reranked"].values()):
        del found["reranked"]
    values = {way: _measured(of, dataset.grades) for way, of in found.items()}
    return {
        "model": name,
        "store": store_id,
        "documents": len(dataset.documents),
        "queries": len(dataset.queries),
        "ways": {
            way: {
                **{measure: estimate(of)._asdict() for measure, of in measures.items()},
                "median_ms": round(1000 * median(seconds for _, seconds, _ in found[way].values()), 1),
            }
            for way, measures in values.items()
        },
        "gains": {
            f"{way} over {other}": estimate(
                [one - two for one, two in zip(values[way]["ndcg@10"], values[other]["ndcg@10"], strict=True)]
            )._asdict()
            for way, other in (("hybrid", "dense"), ("hybrid", "bm25"), ("reranked", "hybrid"))
            if way in values
        },
    }


def show(measured: Mapping[str, Any], output: Console) -> None:
    """Print a table: means with their intervals, which overlap more than paired differences do."""
    table = Table(box=None, header_style="bold")
    for column in ("", *MEASURES, "median"):
        table.add_column(column)
    for way, of in measured["ways"].items():
        table.add_row(
            way, *(_written(of[measure], "{:.3f}–{:.3f}") for measure in MEASURES), f"{of['median_ms']:.0f} ms"
        )
    output.print(f"{measured['queries']} queries, {measured['documents']} documents, model {measured['model']}")
    output.print(table)
    for pair, of in measured["gains"].items():
        output.print(f"{pair}: {_written(of, '{:+.3f} to {:+.3f}')} ndcg@10")


def _written(of: Mapping[str, float], interval: str) -> str:
    return f"{of['mean']:.3f} ({interval.format(of['low'], of['high'])})".replace("0.", ".")


def _pipeline(server: Server) -> str:
    for entry in server.get("/v1/models")["data"]:
        if "retrieve" in entry["capabilities"]:
            return str(entry["id"])
    raise ServerError("No RAG pipeline is served.")


def _fill(server: Server, documents: Mapping[str, str], store: str, clients: int, progress: Progress) -> str:
    """The id of a vector store that holds all documents, each a file whose attribute names it."""
    store_id = next((each["id"] for each in _pages(server, "/v1/vector_stores") if each["name"] == store), None)
    if store_id is None:
        store_id = server.post("/v1/vector_stores", json.dumps({"name": store}).encode())["id"]
    path = f"/v1/vector_stores/{store_id}"
    there = {each["attributes"].get(_ATTRIBUTE) for each in _pages(server, f"{path}/files")}
    lacking = [document for document in documents if document not in there]

    def upload(document: str) -> dict[str, Any]:
        content = documents[document].encode()
        file_id = server.upload(f"{quote(document, safe='')}.md", content)["id"]
        return {"file_id": file_id, "attributes": {_ATTRIBUTE: document}}

    with _threads(clients) as each:
        files = list(progress.track(each(upload, lacking), total=len(lacking), description="uploading"))
    for start in range(0, len(files), _FILES_A_BATCH):
        server.post(f"{path}/file_batches", json.dumps({"files": files[start : start + _FILES_A_BATCH]}).encode())
    _wait(server, path, progress)
    return str(store_id)


def _wait(server: Server, path: str, progress: Progress) -> None:
    """Until every file is ingested. Raises `ServerError` where one could not be."""
    task = progress.add_task("ingesting")
    while True:
        counts = server.get(path)["file_counts"]
        progress.update(task, total=counts["total"], completed=counts["total"] - counts["in_progress"])
        if not counts["in_progress"]:
            break
        time.sleep(_POLL_SECONDS)
    if counts["failed"] or counts["cancelled"]:
        failed = server.get(f"{path}/files?filter=failed&limit=1")["data"]
        reason = f": {failed[0]['last_error']['message']}" if failed else ""
        raise ServerError(f"{counts['failed'] + counts['cancelled']} documents could not be ingested{reason}")


def _ask_all(
    server: Server, queries: Mapping[str, str], model: str, store_id: str, way: str, clients: int, progress: Progress
) -> dict[str, Found]:
    fields = {
        "model": model,
        "vector_store_ids": [store_id],
        "max_num_results": _PASSAGES,
        "ranking_options": WAYS[way],
    }

    def ask(query: str) -> Found:
        body = json.dumps({**fields, "query": queries[query]}).encode()
        degraded = {}
        for _ in range(_ATTEMPTS):
            began = time.perf_counter()
            answer = server.post("/v1/rag/query", body)
            seconds = time.perf_counter() - began
            passages, degraded = answer["passages"], answer["degraded"]
            if not degraded:
                found = dict.fromkeys(passage["attributes"][_ATTRIBUTE] for passage in passages)
                return list(found), seconds, any("rerank" in passage["scores"] for passage in passages)
        raise ServerError(f"Query '{query}' was answered without a part of the pipeline: {degraded}")

    with _threads(clients) as each:
        answers = progress.track(each(ask, queries), total=len(queries), description=way)
        return dict(zip(queries, answers, strict=True))


def _measured(found: Mapping[str, Found], grades: Mapping[str, Mapping[str, int]]) -> dict[str, list[float]]:
    """Of each measure its value for each query, in one order."""
    return {
        name: [measure(documents, grades[query]) for query, (documents, _, _) in found.items()]
        for name, measure in MEASURES.items()
    }


def _pages(server: Server, path: str) -> Iterator[dict[str, Any]]:
    """All entries of a list, page by page."""
    after: dict[str, str] = {}
    while True:
        page = server.get(f"{path}?{urlencode({'limit': 100, **after})}")
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


@contextmanager
def _threads(count: int) -> Iterator[Callable[[Callable[[Item], Result], Iterable[Item]], Iterator[Result]]]:
    """`map` by several threads; the first error ends what has not begun."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)


def _progress(output: Console) -> Progress:
    columns = TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=output, transient=True)
