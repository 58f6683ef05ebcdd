"""Ingestion beside onnxruntime alone: `python -m tests.bench.rag_ingest [--files 20] [--paragraphs 20]`.

The gateway gets the files at once and parses, cuts, embeds and indexes them; the time is from the batch's creation to
its completion, as a client sees it that asks ten times a second. Onnxruntime then embeds the very chunks that came of
them, tokens included, in a process that does nothing else, texts of one length together, in batches of the size that
suits it best of those tried, with threads that spin or that do not. Rates depend on what else the machine does; the
milliseconds of processor time for a chunk, of all processes together, do so less.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.client import Server
from tests.bench.processes import cpu_seconds, running, session, wait_until_answers

ROOT = Path(__file__).resolve().parents[2]
MODEL = "all-minilm-l6-v2"
_PORT = 21300
_BATCHES = (1, 2, 4, 16)
_LOOK_SECONDS = 0.1
_PARSERS = 4
_SENTENCES = (
    "The {} was quiet before the first {} came in.",
    "She counted the {} twice and still did not believe the {}.",
    "How do I renew a {} that expired last {}?",
    "The {} approved the {} after a short debate.",
    "Water boils at a lower {} on high {}.",
    "Please send the signed {} back by the end of the {}.",
)
_WORDS = """
harbour boat stair number library card year committee budget fox field barn temperature mountain contract week engine
valve pressure wing river bridge station train letter judge school garden window market winter
"""
_NOUNS = _WORDS.split()


@dataclass(frozen=True, slots=True)
class Spent:
    """How long something took, and the processor time of all who did it."""

    seconds: float
    processor_seconds: float


def document(draw: random.Random, paragraphs: int) -> str:
    """Markdown with a heading every five paragraphs of four to twelve sentences."""
    parts = []
    for number in range(paragraphs):
        if number % 5 == 0:
            parts.append(f"## The {draw.choice(_NOUNS)} and the {draw.choice(_NOUNS)}")
        sentences = [
            draw.choice(_SENTENCES).format(draw.choice(_NOUNS), draw.choice(_NOUNS)) for _ in range(draw.randint(4, 12))
        ]
        parts.append(" ".join(sentences))
    return "\n\n".join(parts)


def ingested(files: int, paragraphs: int) -> tuple[Spent, list[str]]:
    """What all files took, and the texts of their chunks."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        repository.mkdir()
        (repository / MODEL).symlink_to(ROOT / "model_repository" / MODEL)
        argv = [str(Path(sys.executable).with_name("tritium")), "serve", "--model-repository", str(repository)]
        argv += ["--http-port", str(_PORT), "--grpc-port", str(_PORT + 1), "--metrics-port", str(_PORT + 2)]
        with running([*argv, "--data-dir", f"{scratch}/data", "--no-access-log"]) as process:
            wait_until_answers(f"http://127.0.0.1:{_PORT}/health/ready")
            server = Server(f"http://127.0.0.1:{_PORT}")
            store = server.post("/v1/vector_stores", b'{"name": "bench"}')["id"]
            # The first files pay for what is started once: parsers, libraries, the collection.
            put(server, store, uploaded(server, [document(draw, 2) for _ in range(_PARSERS)]))
            ids = uploaded(server, [document(draw, paragraphs) for _ in range(files)])
            used, began = _processor_seconds(process.pid), time.perf_counter()
            put(server, store, ids)
            spent = Spent(time.perf_counter() - began, _processor_seconds(process.pid) - used)
            paths = [f"/v1/vector_stores/{store}/files/{file_id}/content" for file_id in ids]
            return spent, [chunk["text"] for path in paths for chunk in server.get(path)["data"]]


def uploaded(server: Server, texts: list[str]) -> list[str]:
    """The ids of new files."""
    return [server.upload(f"{number}.md", text.encode())["id"] for number, text in enumerate(texts)]


def put(server: Server, store: str, ids: list[str]) -> None:
    """Put files into a store, and wait until they are there."""
    path = f"/v1/vector_stores/{store}/file_batches"
    batch = server.post(path, json.dumps({"file_ids": ids}).encode())
    while batch["status"] == "in_progress":
        time.sleep(_LOOK_SECONDS)
        batch = server.get(f"{path}/{batch['id']}")
    assert batch["file_counts"]["completed"] == len(ids), batch


def _processor_seconds(leader: int) -> float:
    """Of all processes that live; those that end meanwhile are missed, and none should."""
    return sum(cpu_seconds(pid) for pid in session(leader))


def direct(texts: list[str]) -> list[Spent]:
    """What onnxruntime takes alone, each way, with the optimisations that the model's configuration leaves on."""
    import numpy as np
    import onnxruntime
    import tokenizers

    version = ROOT / "model_repository" / MODEL / "1"
    tokenizer = tokenizers.Tokenizer.from_file(str(version / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()

    def embed(session: onnxruntime.InferenceSession, batch: list[str]) -> None:
        encodings = tokenizer.encode_batch(batch)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        pooled = (hidden * mask[..., None]).sum(axis=1)
        pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    texts = sorted(texts, key=len)
    found = []
    for spins in ("0", "1"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", spins)
        path = str(version / "model.onnx")
        made = onnxruntime.InferenceSession(path, options, disabled_optimizers=["SkipLayerNormFusion"])
        for size in _BATCHES:
            embed(made, texts[:size])
            used, began = time.process_time(), time.perf_counter()
            for start in range(0, len(texts), size):
                embed(made, texts[start : start + size])
            found.append(Spent(time.perf_counter() - began, time.process_time() - used))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--paragraphs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.direct:
        print(json.dumps([asdict(spent) for spent in direct(json.load(sys.stdin))]))
        return
    ratios = []
    for _ in range(options.repeats):
        spent, texts = ingested(options.files, options.paragraphs)
        argv = [sys.executable, "-m", "tests.bench.rag_ingest", "--direct"]
        done = subprocess.run(argv, input=json.dumps(texts), capture_output=True, text=True, check=True)
        ways = json.loads(done.stdout)
        count, seconds = len(texts), min(way["seconds"] for way in ways)
        ratios.append(seconds / spent.seconds)
        each = 1000 * spent.processor_seconds / count, 1000 * min(way["processor_seconds"] for way in ways) / count
        print(
            f"ingested {count / spent.seconds:6.1f} chunks/s, onnxruntime alone {count / seconds:6.1f}:"
            f" {ratios[-1]:.2f} x; {each[0]:.1f} and {each[1]:.1f} ms of processor time a chunk",
            flush=True,
        )
    print(f"ingestion: {sorted(ratios)[len(ratios) // 2]:.2f} of onnxruntime's own rate (target 0.85)")


if __name__ == "__main__":
    main()
