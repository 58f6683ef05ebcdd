"""A process that puts files into a collection, each named on stdout once it is acknowledged.

Its arguments: URL, collection, what the files' names begin with, and how many. Every file is put
twice, the second time with the other number of chunks.
"""

from __future__ import annotations

import asyncio
import sys

from ensembles.stores.opening import open_store
from tests.conformance.store_chunks import SIZES, written


async def main(url: str, collection: str, prefix: str, count: int) -> None:
    store = open_store(url)
    for index in range(count):
        for size in SIZES:
            file_id = f"{prefix}{index}"
            await store.put(collection, {file_id: written(file_id, size)})
            print(file_id, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
