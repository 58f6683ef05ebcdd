"""Ingestion beside onnxruntime alone: `python -m tests.bench.rag_ingest [--files 20] [--paragraphs 20]`.

The gateway gets the files at once and parses, cuts, embeds and indexes them; the time is from the batch's creation to
its completion. Onnxruntime then embeds the very chunks that came of them, tokens included, in a process that does
nothing else, in batches of the size that suits it best of those tried, texts of one length together.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gateway.client import Server
from tests.bench.processes import running, wait_until_answers

ROOT = Path(__file__).resolve().parents[2]
MODEL = "all-minilm-l6-v2"
_PORT = 21300
_BATCHES = (1, 2, 4, 16)
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


def ingested(files: int, paragraphs: int) -> tuple[float, list[str]]:
    """Seconds for all files, and the texts of their chunks."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        repository.mkdir()
        (repository / MODEL).symlink_to(ROOT / "model_repository" / MODEL)
        argv = [str(Path(sys.executable).with_name("tritium")), "serve", "--model-repository", str(repository)]
        argv += ["--http-port", str(_PORT), "--grpc-port", str(_PORT + 1), "--metrics-port", str(_PORT + 2)]
        with running([*argv, "--data-dir", f"{scratch}/data", "--no-access-log"]):
            wait_until_answers(f"http://127.0.0.1:{_PORT}/health/ready")
            server = Server(f"http://127.0.0.1:{_PORT}")
            store = server.post("/v1/vector_stores", b'{"name": "bench"}')["id"]
            # The first file pays for what is started once: parsers, libraries, the collection.
            put(server, store, [document(draw, 2)])
            began = time.perf_counter()
            ids = put(server, store, [document(draw, paragraphs) for _ in range(files)])
            seconds = time.perf_counter() - began
            paths = [f"/v1/vector_stores/{store}/files/{file_id}/content" for file_id in ids]
            return seconds, [chunk["text"] for path in paths for chunk in server.get(path)["data"]]


def put(server: Server, store: str, texts: list[str]) -> list[str]:
    ids = [server.upload(f"{number}.md", text.encode())["id"] for number, text in enumerate(texts)]
    path = f"/v1/vector_stores/{store}/file_batches"
    batch = server.post(path, json.dumps({"file_ids": ids}).encode())
    while batch["status"] == "in_progress":
        time.sleep(0.02)
        batch = server.get(f"{path}/{batch['id']}")
    assert batch["file_counts"]["completed"] == len(ids), batch
    return ids


def direct(texts: list[str]) -> float:
    """Chunks a second by onnxruntime alone, with the optimisations that the model's configuration leaves on."""
    import numpy as np
    import onnxruntime
    import tokenizers

    version = ROOT / "model_repository" / MODEL / "1"
    tokenizer = tokenizers.Tokenizer.from_file(str(version / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(version / "model.onnx"), disabled_optimizers=["SkipLayerNormFusion"])

    def embed(batch: list[str]) -> None:
        encodings = tokenizer.encode_batch(batch)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        pooled = (hidden * mask[..., None]).sum(axis=1)
        pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    texts = sorted(texts, key=len)
    rates = []
    for size in _BATCHES:
        embed(texts[:size])
        began = time.perf_counter()
        for start in range(0, len(texts), size):
            embed(texts[start : start + size])
        rates.append(len(texts) / (time.perf_counter() - began))
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--paragraphs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.direct:
        print(direct(json.load(sys.stdin)))
        return
    ratios = []
    for _ in range(options.repeats):
        seconds, texts = ingested(options.files, options.paragraphs)
        argv = [sys.executable, "-m", "tests.bench.rag_ingest", "--direct"]
        done = subprocess.run(argv, input=json.dumps(texts), capture_output=True, text=True, check=True)
        ours, alone = len(texts) / seconds, float(done.stdout)
        ratios.append(ours / alone)
        print(f"ingested {ours:6.1f} chunks/s, onnxruntime alone {alone:6.1f}: {ratios[-1]:.2f} x", flush=True)
    print(f"ingestion: {sorted(ratios)[len(ratios) // 2]:.2f} of onnxruntime's own rate (target 0.85)")


if __name__ == "__main__":
    main()
