"""A process that puts files into a collection, each named on stdout once it is acknowledged.

Its arguments: URL, collection, what the files' names begin with, and how many. Every file is put
twice, the second time with the other number of chunks.
"""

from __future__ import annotations

import asyncio
import struct
import sys

from ensembles.stores.opening import open_store
from ensembles.stores.store import Chunk

DIMENSIONS = 4
SIZES = (7, 4)


def written(file_id: str, size: int) -> list[Chunk]:
    """The chunks of a file that has `size` of them; each says how many."""
    return [
        Chunk(file_id, f"{file_id}.txt", ordinal, f"piece {ordinal} of {size}", vector=vector(1, ordinal, size, 0))
        for ordinal in range(size)
    ]


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


async def main(url: str, collection: str, prefix: str, count: int) -> None:
    store = open_store(url)
    for index in range(count):
        for size in SIZES:
            file_id = f"{prefix}{index}"
            await store.put(collection, file_id, written(file_id, size))
            print(file_id, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
