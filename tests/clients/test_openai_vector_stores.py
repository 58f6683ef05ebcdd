"""Vector stores through OpenAI's client, at a server of two processes and two tenants."""

from __future__ import annotations

import http.client
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import VectorStore
from openai.types.vector_stores import VectorStoreFile

from tests.clients.files_served import MODEL, FilesServed, serving_files
from tests.processes import command_line, descendants
from tests.waiting import eventually

pytestmark = pytest.mark.slow

FRUIT, SHIPS = b"An apple is a fruit.", b"A ship is a large boat."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesServed]:
    with serving_files(tmp_path_factory.mktemp("stores"), "--reranker", MODEL) as served:
        yield served


@pytest.fixture
def client(served: FilesServed) -> openai.OpenAI:
    return served.alice


@pytest.fixture
def store(client: openai.OpenAI) -> Iterator[VectorStore]:
    """An empty one, deleted at the end."""
    made = client.vector_stores.create(name="a store")
    yield made
    client.vector_stores.delete(made.id)


def upload(client: openai.OpenAI, data: bytes = FRUIT, filename: str = "a.txt") -> str:
    return client.files.create(file=(filename, data), purpose="assistants").id


def put(client: openai.OpenAI, store: VectorStore, data: bytes = FRUIT, **options: Any) -> VectorStoreFile:
    return client.vector_stores.files.create_and_poll(
        upload(client, data), vector_store_id=store.id, poll_interval_ms=50, **options
    )


def post(served: FilesServed, path: str, body: object) -> httpx.Response:
    headers = {"Authorization": "Bearer alice-key"}
    return httpx.post(f"{served.server.url}/v1/vector_stores{path}", json=body, headers=headers)


def test_a_store_is_made_of_files_and_polled_until_it_is_complete(client: openai.OpenAI):
    ids = [upload(client), upload(client, SHIPS)]
    made = client.vector_stores.create(
        name="both",
        description="Two files",
        file_ids=ids,
        metadata={"a": "b"},
        expires_after={"anchor": "last_active_at", "days": 7},
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}},
    )
    assert (made.name, made.metadata, made.file_counts.total) == ("both", {"a": "b"}, 2)
    assert made.last_active_at is not None
    assert made.expires_at == made.last_active_at + 7 * 86400
    for file_id in ids:
        file = client.vector_stores.files.poll(file_id, vector_store_id=made.id, poll_interval_ms=50)
        assert file.status == "completed"
        assert file.chunking_strategy is not None
        assert file.chunking_strategy.to_dict() == {
            "type": "static",
            "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100},
        }
    done = client.vector_stores.retrieve(made.id)
    assert (done.status, done.file_counts.completed, done.file_counts.total) == ("completed", 2, 2)
    assert done.usage_bytes > 0


def test_every_server_process_prepares_its_first_search_once_there_is_a_store(served: FilesServed, store: VectorStore):
    assert store.id
    servers = [pid for pid in descendants(served.server.pid) if "gateway.server" in command_line(pid)]
    assert len(servers) == 2
    for pid in servers:
        maps = Path(f"/proc/{pid}/maps")
        eventually(lambda maps=maps: "lancedb" in maps.read_text(), seconds=30, what="LanceDB")


def test_stores_are_listed_both_ways(client: openai.OpenAI):
    for old in client.vector_stores.list():
        client.vector_stores.delete(old.id)
    ids = [client.vector_stores.create(name=str(number)).id for number in range(4)]
    assert [store.id for store in client.vector_stores.list(limit=3, order="asc")] == ids
    assert [store.id for store in client.vector_stores.list(limit=3)] == ids[::-1]
    page = client.vector_stores.list(limit=2, order="asc", before=ids[3])
    assert [store.id for store in page.data] == ids[1:3]


def test_a_store_is_changed_field_by_field(client: openai.OpenAI, store: VectorStore):
    changed = client.vector_stores.update(store.id, metadata={"k": "v"})
    assert (changed.name, changed.metadata) == ("a store", {"k": "v"})
    changed = client.vector_stores.update(store.id, name="new", expires_after={"anchor": "last_active_at", "days": 1})
    assert (changed.name, changed.metadata) == ("new", {"k": "v"})
    assert changed.expires_after is not None
    changed = client.vector_stores.update(store.id, expires_after=None, metadata=None)
    assert (changed.name, changed.metadata, changed.expires_after, changed.expires_at) == ("new", {}, None, None)


def test_a_deleted_store_is_gone_and_its_files_stay(client: openai.OpenAI):
    made = client.vector_stores.create()
    file = put(client, made)
    deleted = client.vector_stores.delete(made.id)
    assert (deleted.object, deleted.deleted) == ("vector_store.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(made.id)
    assert client.files.retrieve(file.id).id == file.id


def test_another_tenants_store_does_not_exist(client: openai.OpenAI, served: FilesServed, store: VectorStore):
    file = put(client, store)
    bob = served.bob.vector_stores
    for ask in (
        lambda: bob.retrieve(store.id),
        lambda: bob.update(store.id, name="mine"),
        lambda: bob.delete(store.id),
        lambda: bob.search(store.id, query="apple"),
        lambda: bob.files.create(store.id, file_id=upload(served.bob)),
        lambda: bob.files.list(store.id),
        lambda: bob.files.content(file.id, vector_store_id=store.id),
        lambda: bob.file_batches.create(store.id, file_ids=[upload(served.bob)]),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.NotFoundError):
        bob.create(file_ids=[file.id])
    assert bob.list().data == []


def test_a_file_is_put_in_shown_and_taken_out(client: openai.OpenAI, store: VectorStore):
    file = put(client, store, attributes={"kind": "fruit", "year": 2001, "is_ripe": True, "weight": 0.5})
    assert (file.status, file.last_error, file.vector_store_id) == ("completed", None, store.id)
    assert file.usage_bytes > 0
    assert file.attributes == {"kind": "fruit", "year": 2001, "is_ripe": True, "weight": 0.5}
    assert client.vector_stores.files.retrieve(file.id, vector_store_id=store.id) == file
    deleted = client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    assert (deleted.id, deleted.object) == (file.id, "vector_store.file.deleted")
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve(file.id, vector_store_id=store.id)
    assert client.vector_stores.search(store.id, query="apple").data == []
    assert client.files.retrieve(file.id).id == file.id


def test_a_file_is_uploaded_and_polled_in_one_call(client: openai.OpenAI, store: VectorStore):
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("fruit.txt", FRUIT), poll_interval_ms=50
    )
    assert file.status == "completed"
    (content,) = client.vector_stores.files.content(file.id, vector_store_id=store.id).data
    assert content.text == "An apple is a fruit."


def test_a_file_that_cannot_be_read_says_why(client: openai.OpenAI, store: VectorStore):
    file = put(client, store, b"")
    assert file.status == "failed"
    assert file.last_error is not None
    assert file.last_error.code == "invalid_file"
    assert "empty" in file.last_error.message
    counts = client.vector_stores.retrieve(store.id).file_counts
    assert (counts.failed, counts.total) == (1, 1)


def test_files_are_listed_by_status_and_paged(client: openai.OpenAI, store: VectorStore):
    done = [put(client, store, FRUIT + b"%d" % number).id for number in range(3)]
    failed = put(client, store, b"").id
    files = client.vector_stores.files
    assert [file.id for file in files.list(store.id, order="asc", limit=2)] == [*done, failed]
    assert [file.id for file in files.list(store.id, filter="failed")] == [failed]
    assert [file.id for file in files.list(store.id, filter="completed", order="asc", after=done[0])] == done[1:]
    with pytest.raises(openai.BadRequestError) as caught:
        files.list(store.id, after="file-nothing")
    assert caught.value.param == "after"


def test_files_are_found_by_words_meaning_and_attributes(client: openai.OpenAI, store: VectorStore):
    fruit = put(client, store, FRUIT, attributes={"year": 2001})
    put(client, store, SHIPS, attributes={"year": 1999})
    (first, *rest) = client.vector_stores.search(store.id, query="apple", max_num_results=3).data
    assert (first.file_id, first.filename, first.attributes) == (fruit.id, "a.txt", {"year": 2001})
    assert first.content[0].text == "An apple is a fruit."
    assert 1 >= first.score >= max(result.score for result in rest)
    assert len(rest) == 1
    old = client.vector_stores.search(store.id, query="apple", filters={"type": "lt", "key": "year", "value": 2000})
    assert {result.attributes["year"] for result in old.data if result.attributes} == {1999}
    both = client.vector_stores.search(
        store.id,
        query=["apple", "ship"],
        filters={"type": "or", "filters": [{"type": "eq", "key": "year", "value": year} for year in (1999, 2001)]},
        ranking_options={"ranker": "auto", "score_threshold": 0.2},
        rewrite_query=True,
        max_num_results=2,
    )
    assert {result.content[0].text for result in both.data} == {"An apple is a fruit.", "A ship is a large boat."}


def test_an_expired_store_says_so_and_is_searched_no_more(client: openai.OpenAI, served: FilesServed):
    made = client.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1})
    file = put(client, made)
    with closing(sqlite3.connect(served.data_dir / "records.db")) as records, records:
        records.execute("UPDATE vector_stores SET expires_at = 1 WHERE id = ?", (made.id,))
    assert client.vector_stores.retrieve(made.id).status == "expired"
    for ask in (
        lambda: client.vector_stores.search(made.id, query="apple"),
        lambda: client.vector_stores.files.create(made.id, file_id=file.id),
        lambda: client.vector_stores.update(made.id, expires_after=None),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("vector_store_expired", "vector_store_id")
    assert client.vector_stores.delete(made.id).deleted


def test_a_search_has_the_fields_of_a_page(served: FilesServed, store: VectorStore):
    answer = post(served, f"/{store.id}/search", {"query": "apple"}).json()
    assert answer == {
        "object": "vector_store.search_results.page",
        "search_query": ["apple"],
        "data": [],
        "has_more": False,
        "next_page": None,
    }


def test_a_search_is_reranked_unless_it_asks_for_the_fused_order(client: openai.OpenAI, store: VectorStore):
    for data in (b"apple apple pear", b"An apple, and what a boat and a ship are.", b"plum"):
        put(client, store, data)

    def scores(**options: Any) -> list[float]:
        found = client.vector_stores.search(store.id, query="an apple", ranking_options=options, rewrite_query=True)
        return [result.score for result in found.data]

    fused = scores(ranker="none")
    assert scores(ranker="auto") == scores(ranker="default-2024-11-15") == scores() != fused
    for each in (fused, scores()):
        assert each == sorted(each, reverse=True)
        assert all(0 <= score <= 1 for score in each)


def test_attributes_are_replaced_for_the_next_search(client: openai.OpenAI, store: VectorStore):
    file = put(client, store, attributes={"kind": "fruit"})
    changed = client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"kind": "tree"})
    assert changed.attributes == {"kind": "tree"}
    for kind, expected in (("tree", [file.id]), ("fruit", [])):
        found = client.vector_stores.search(
            store.id, query="apple", filters={"type": "eq", "key": "kind", "value": kind}, max_num_results=1
        )
        assert [result.file_id for result in found.data] == expected


def test_a_batch_is_polled_counted_and_listed(client: openai.OpenAI, store: VectorStore):
    ids = [upload(client, FRUIT + b"%d" % number) for number in range(3)]
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=ids, attributes={"a": "b"}, poll_interval_ms=50
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 3, 3)
    assert client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id) == batch
    files = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, order="asc", limit=2)
    assert [(file.id, file.attributes) for file in files] == [(file_id, {"a": "b"}) for file_id in ids]


def test_files_of_a_batch_have_attributes_and_chunking_of_their_own(client: openai.OpenAI, store: VectorStore):
    static = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    batch = client.vector_stores.file_batches.create(
        store.id,
        files=[
            {"file_id": upload(client), "attributes": {"n": 1}},
            {"file_id": upload(client, SHIPS), "attributes": {"n": 2}, "chunking_strategy": static},
        ],
    )
    client.vector_stores.file_batches.poll(batch.id, vector_store_id=store.id, poll_interval_ms=50)
    files = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, order="asc").data
    assert [file.attributes for file in files] == [{"n": 1}, {"n": 2}]
    strategies = [file.chunking_strategy.to_dict() for file in files if file.chunking_strategy]
    assert strategies[0]["static"] == {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
    assert strategies[1] == static


def test_a_batch_is_uploaded_and_polled_in_one_call(client: openai.OpenAI, store: VectorStore):
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=[("a.txt", FRUIT), ("b.txt", SHIPS)], poll_interval_ms=50
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)


def test_a_batch_can_be_cancelled(client: openai.OpenAI, store: VectorStore):
    ids = [upload(client, b"%d" % number) for number in range(60)]
    batch = client.vector_stores.file_batches.create(store.id, file_ids=ids)
    batch = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    counts = batch.file_counts
    assert (counts.in_progress, counts.total) == (0, 60)
    assert batch.status == "cancelled"
    assert counts.cancelled + counts.completed == 60
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.file_batches.cancel("vsfb_nothing", vector_store_id=store.id)


def test_a_file_that_is_deleted_leaves_its_stores(client: openai.OpenAI, store: VectorStore):
    file = put(client, store)
    client.files.delete(file.id)
    assert client.vector_stores.files.list(store.id).data == []
    assert client.vector_stores.search(store.id, query="apple").data == []


def test_files_that_are_deleted_while_they_are_ingested_leave_nothing(client: openai.OpenAI, store: VectorStore):
    ids = [upload(client, FRUIT + b"%d" % number) for number in range(20)]
    client.vector_stores.file_batches.create(store.id, file_ids=ids)
    threads = [threading.Thread(target=client.files.delete, args=(file_id,)) for file_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.vector_stores.retrieve(store.id).file_counts.total == 0
    assert client.vector_stores.search(store.id, query="apple").data == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after"),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after"),
        ("", {"metadata": {"k" * 65: "v"}}, "metadata"),
        ("", {"metadata": {"k": "v" * 513}}, "metadata"),
        ("", {"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ("", {"name": 7}, "name"),
        ("", {"name": "\x00"}, "name"),
        ("", {"file_ids": ["file-x"] * 501}, "file_ids"),
        ("", {"chunking_strategy": {"type": "semantic"}}, "chunking_strategy"),
        (
            "",
            {"chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 99}}},
            "chunking_strategy",
        ),
        (
            "",
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 300, "chunk_overlap_tokens": 200},
                }
            },
            "chunking_strategy",
        ),
        ("/{}/files", {"attributes": {}}, "file_id"),
        ("/{}/files", {"file_id": "file-x", "attributes": {"k": None}}, "attributes"),
        ("/{}/file_batches", {}, "body"),
        ("/{}/file_batches", {"file_ids": []}, "file_ids"),
        ("/{}/file_batches", {"file_ids": ["file-x"], "files": [{"file_id": "file-x"}]}, "body"),
        ("/{}/search", {}, "query"),
        ("/{}/search", {"query": []}, "query"),
        ("/{}/search", {"query": "a", "max_num_results": 51}, "max_num_results"),
        ("/{}/search", {"query": "a", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters"),
        ("/{}/search", {"query": "a", "ranking_options": {"score_threshold": 2}}, "ranking_options"),
        (
            "/{}/search",
            {"query": "a", "ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}},
            "ranking_options",
        ),
    ],
)
def test_what_is_wrong_is_named(served: FilesServed, store: VectorStore, path: str, body: Any, param: str):
    answer = post(served, path.format(store.id), body)
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("path", ["/{}/files", "/{}/file_batches"])
def test_a_file_that_is_not_there_is_named(served: FilesServed, store: VectorStore, path: str):
    body = {"file_id": "file-x"} if path.endswith("files") else {"file_ids": ["file-x"]}
    answer = post(served, path.format(store.id), body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "file_id")
    assert "file-x" in answer.json()["error"]["message"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(served: FilesServed):
    for key, status in (("alice-key", 413), ("nobody", 401)):
        connection = http.client.HTTPConnection("127.0.0.1", served.server.http_port)
        connection.putrequest("POST", "/v1/vector_stores")
        connection.putheader("Authorization", f"Bearer {key}")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()
