"""Searches of 16 readers at two server processes while a third process ingests: `python -m tests.bench.rag_readers`.

The same without ingestion stands before it. Each search is whole, from the client's request to its answer: a question
is embedded, looked for by meaning and by words, and the two are fused. With MiniLM the embedder is what readers and
ingester share; the echo engine, which embeds in next to no time, leaves the stores. A search that fails, or does not
find what is there, ends the command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.postgres_servers import postgres_server
from tests.readers import ReadStore
from tests.servers import ROOT, echo_repository, serving

EMBEDDERS = ("all-minilm-l6-v2", "echo")
STORES = ("lancedb", "postgresql")
READERS = 16
SECTIONS = 20


async def measured(url: str, files: int, seconds: float, what: str) -> None:
    store = ReadStore(url, SECTIONS)
    await store.fill(range(files))
    # Indices take in what was put, and connections are made.
    await store.read(1, asyncio.create_task(asyncio.sleep(5)))
    for name, work in (("alone", asyncio.sleep(seconds)), ("while ingesting", store.fill(range(files, 2 * files)))):
        store.took.clear()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            await store.read(READERS, group.create_task(work))
        took = time.perf_counter() - began
        middle, high = np.percentile(store.took, [50, 99]) * 1e3
        rate = f", {files * SECTIONS / took:.0f} chunks a second" if name != "alone" else ""
        print(
            f"{what}, {name:15} p50 {middle:6.1f} ms, p99 {high:6.1f} ms, {len(store.took) / took:4.0f} searches{rate}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", choices=EMBEDDERS, nargs="+", default=EMBEDDERS)
    parser.add_argument("--store", choices=STORES, nargs="+", default=STORES)
    parser.add_argument("--files", type=int, default=60, help=f"before, and while being read; {SECTIONS} chunks each")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    for embedder, kind in itertools.product(options.embedder, options.store):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            models = folder / "models"
            if embedder == "echo":
                echo_repository(models, {"echo": {}})
            else:
                models.mkdir()
                (models / embedder).symlink_to(ROOT / "model_repository" / embedder)
            url = stack.enter_context(postgres_server()).url if kind == "postgresql" else str(folder / "vectors")
            flags = ("--workers", "2", "--vector-store-url", url, "--no-access-log")
            server = stack.enter_context(serving(models, *flags))
            asyncio.run(measured(server.url, options.files, options.seconds, f"{embedder:16} {kind:10}"))


if __name__ == "__main__":
    main()
