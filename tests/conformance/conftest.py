"""The stores that the conformance suite is run on: LanceDB in a folder and on object storage, and PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest

from ensembles.stores.opening import open_store
from ensembles.stores.store import Store
from tests.conformance.store_chunks import DIMENSIONS
from tests.postgres_servers import postgres_server
from tests.s3_servers import s3_server

KINDS = ["lancedb", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("object_storage", "postgres"))]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture(scope="module")
def object_storage() -> Iterator[str]:
    with s3_server() as server:
        yield server.url


@pytest.fixture(scope="module", params=KINDS)
def store_url(request, tmp_path_factory) -> str:
    if request.param == "lancedb":
        return str(tmp_path_factory.mktemp("chunks"))
    return request.getfixturevalue(request.param)


@pytest.fixture
async def opening(store_url) -> AsyncIterator[Callable[[], Store]]:
    """Opens the store again, as another process would."""
    async with contextlib.AsyncExitStack() as stack:

        def opened() -> Store:
            store = open_store(store_url)
            stack.push_async_callback(store.close)
            return store

        yield opened


@pytest.fixture
async def store(opening) -> Store:
    return opening()


@pytest.fixture
async def collection(store) -> str:
    name = f"vs_{uuid4().hex}"
    await store.create(name, DIMENSIONS)
    return name
