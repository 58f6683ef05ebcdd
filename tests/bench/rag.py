"""Retrieval's figures, one part after the other: `make bench-rag`, or `python -m tests.bench.rag [--only PART …]`.

    search    100,000 chunks: p50 and p99 at 1 and 16 clients, recall@10 against exact search
    readers   p50 and p99 of whole searches by 16 readers at two server processes, with a third ingesting and without
    ingest    chunks a second, beside onnxruntime's own rate on the same texts (target 0.85)
    overhead  what a pipeline costs beside its steps (target 3 ms)
    ttft      time to the first token, beside the same pipeline written with Haystack (target 0.8)

Each part is a command of its own with options of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

PARTS = {
    "search": "tests.bench.rag_search",
    "readers": "tests.bench.rag_readers",
    "ingest": "tests.bench.rag_ingest",
    "overhead": "tests.bench.rag_overhead",
    "ttft": "tests.bench.rag_ttft",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    failed = 0
    for part in parser.parse_args().only:
        print(f"--- {part}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", PARTS[part]], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
