"""Files and vector stores with everything but the bytes elsewhere, through OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.clients.files_served import FilesServed, openai_client, serving_files
from tests.postgres_servers import postgres_server
from tests.s3_servers import s3_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["PostgreSQL", "object storage"])
def served(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[FilesServed]:
    folder = tmp_path_factory.mktemp("elsewhere")
    if request.param == "PostgreSQL":
        with postgres_server() as server:
            flags = ("--database-url", server.url, "--vector-store-url", server.url)
            with serving_files(folder, *flags) as served:
                yield served
    else:
        with s3_server() as storage, serving_files(folder, "--vector-store-url", storage.url) as served:
            yield served
            assert not (served.data_dir / "vectors").exists()


def test_files_are_ingested_found_and_deleted(served: FilesServed):
    client = served.alice
    store = client.vector_stores.create(name="a store")
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id,
        files=[(f"{number}.txt", b"%d: an apple is a fruit." % number) for number in range(20)],
        poll_interval_ms=50,
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 20)
    ids = [file.id for file in client.vector_stores.files.list(store.id, limit=7, order="asc")]
    assert len(set(ids)) == len(ids) == 20
    client.vector_stores.files.update(ids[3], vector_store_id=store.id, attributes={"year": 2001})
    (found,) = client.vector_stores.search(
        store.id, query="apple", filters={"type": "eq", "key": "year", "value": 2001}
    ).data
    assert (found.file_id, found.content[0].text) == (ids[3], f"{found.filename[:-4]}: an apple is a fruit.")
    client.files.delete(ids[3])
    for _ in range(6):  # of several connections either process gets some
        with openai_client(served.server, "alice-key") as another:
            everything = another.vector_stores.search(store.id, query="apple", max_num_results=50)
            assert {result.file_id for result in everything.data} == set(ids) - {ids[3]}
    assert client.vector_stores.retrieve(store.id).file_counts.total == 19
    client.vector_stores.delete(store.id)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search(store.id, query="apple")


def test_another_tenants_files_do_not_exist(served: FilesServed):
    file = served.alice.files.create(file=b"text", purpose="user_data")
    with pytest.raises(openai.NotFoundError):
        served.bob.files.retrieve(file.id)
    assert not [each for each in served.bob.files.list() if each.id == file.id]
