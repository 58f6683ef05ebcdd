"""Embeddings of single sentences by many clients, beside onnxruntime called directly and without dynamic batching.

    python -m tests.bench.embeddings [--clients 32] [--seconds 4] [--repeats 3] [--model all-minilm-l6-v2]

`direct` has its batches ready and full, `--batch` rows each, tokens made beforehand, in a process that does nothing
else, with onnxruntime's own settings. The two servers are asked over HTTP by clients that send one sentence and wait
for its embedding, in alternating order. CPU is that of the whole server, HTTP and tokens included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.bench.processes import cpu_seconds, running, session, wait_until_answers

ROOT = Path(__file__).resolve().parents[2]
_PORTS = {"batched": 21100, "single": 21110}
_SENTENCES = [
    "The harbour was quiet before the first boats came in.",
    "She counted the stairs twice and still did not believe the number.",
    "Rain is expected in the north by late afternoon.",
    "How do I renew a library card that expired last year?",
    "The committee approved the budget after a short debate.",
    "A small fox crossed the frozen field and vanished behind the barn.",
    "Water boils at a lower temperature on high mountains.",
    "Please send the signed contract back by the end of the week.",
]


def sentences(count: int) -> list[str]:
    """Sentences of about twelve to twenty tokens, no two alike."""
    return [f"{_SENTENCES[i % len(_SENTENCES)]} {i}" for i in range(count)]


def direct(model: Path, batch: int, seconds: float) -> dict[str, float]:
    """Onnxruntime alone, on full batches of the same sentences."""
    import numpy as np
    import onnxruntime
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(model / "model.onnx"))
    feeds = []
    for start in range(0, 8 * batch, batch):
        encodings = tokenizer.encode_batch(sentences(8 * batch)[start : start + batch])
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        feeds.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    runs, began, spent = 0, 0.0, 0.0
    for number in range(1_000_000):
        session.run(None, feeds[number % len(feeds)])
        now = time.perf_counter()
        if number == len(feeds):
            runs, began, spent = 0, now, time.process_time()
        elif began:
            runs += 1
            if now - began > seconds:
                rows = runs * batch
                return {"rate": rows / (now - began), "cpu_ms": (time.process_time() - spent) / rows * 1e3}
    raise AssertionError("unreachable")


async def load(port: int, model: str, clients: int, seconds: float) -> dict[str, float]:
    """Clients that each send one sentence, wait for its embedding, and send the next."""
    texts = sentences(clients * 8)
    latencies: list[float] = []
    begin = time.perf_counter() + 0.5
    end = begin + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while True:
            body = json.dumps({"model": model, "input": texts[turn % len(texts)], "encoding_format": "base64"}).encode()
            turn += clients + 1
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            sent = time.perf_counter()
            writer.write(head.encode() + body)
            found = await reader.readuntil(b"\r\n\r\n")
            assert found.startswith(b"HTTP/1.1 200"), found
            length = re.search(rb"content-length: (\d+)", found)
            assert length
            await reader.readexactly(int(length[1]))
            now = time.perf_counter()
            if now > end:
                break
            if sent >= begin:
                latencies.append(now - sent)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    latencies.sort()
    return {
        "rate": len(latencies) / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1e3,
    }


def repository(folder: Path, source: Path, *, is_batched: bool) -> Path:
    """The model alone, as it is or without its dynamic batcher."""
    target = folder / source.name
    target.mkdir(parents=True)
    (target / "1").symlink_to(source / "1")
    text = (source / "config.pbtxt").read_text()
    (target / "config.pbtxt").write_text(text if is_batched else re.sub(r"dynamic_batching \{[^}]*\}", "", text))
    return folder


def served(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    port = _PORTS[name]
    argv = [str(Path(sys.executable).parent / "tritium"), "serve", "--model-repository", str(folder)]
    ports = ["--http-port", str(port), "--grpc-port", str(port + 1), "--metrics-port", str(port + 2)]
    with running([*argv, *ports, "--no-access-log"]) as server:
        wait_until_answers(f"http://127.0.0.1:{port}/health/ready")
        before = {pid: cpu_seconds(pid) for pid in session(server.pid)}
        asking = [sys.executable, "-m", "tests.bench.embeddings", "--load", str(port), "--model", options.model]
        asking += ["--clients", str(options.clients), "--seconds", str(options.seconds)]
        report: dict[str, float] = json.loads(subprocess.run(asking, capture_output=True, check=True).stdout)
        spent = sum(cpu_seconds(pid) - before.get(pid, 0.0) for pid in session(server.pid))
        # It works while the clients warm up as well: CPU is set against the time that it was asked in all.
        report["cpu_ms"] = spent / (report["rate"] * (options.seconds + 0.5)) * 1e3
        return report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--model-repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    source = options.model_repository / options.model
    if options.direct:
        print(json.dumps(direct(source / "1", options.batch, options.seconds)))
        return
    if options.load:
        print(json.dumps(asyncio.run(load(options.load, options.model, options.clients, options.seconds))))
        return
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            name: repository(Path(scratch) / name, source, is_batched=name == "batched")
            for name in ("batched", "single")
        }
        for repeat in range(options.repeats):
            argv = [sys.executable, "-m", "tests.bench.embeddings", "--direct", "--batch", str(options.batch)]
            argv += ["--seconds", str(options.seconds), "--model-repository", str(options.model_repository)]
            argv += ["--model", options.model]
            found["direct"].append(json.loads(subprocess.run(argv, capture_output=True, check=True).stdout))
            for name in folders if repeat % 2 else reversed(folders):
                found[name].append(served(name, folders[name], options))
    _print(found)


def _print(found: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        name: {key: statistics.median(report[key] for report in reports) for key in reports[0]}
        for name, reports in found.items()
    }
    for name in ("direct", "batched", "single"):
        report = medians[name]
        rest = ""
        if "p50_ms" in report:
            rest = f"  p50 {report['p50_ms']:6.1f} ms  p99 {report['p99_ms']:6.1f} ms"
        print(f"{name:8} {report['rate']:7.0f} sentences/s  {report['cpu_ms']:5.2f} ms of CPU each{rest}")
    for key, words in (("rate", "rate"), ("cpu_ms", "CPU a sentence")):
        batched = medians["batched"][key]
        ratios = ", ".join(f"{batched / medians[name][key]:.2f} of {name}" for name in ("direct", "single"))
        print(f"{words}: batched is {ratios}")


if __name__ == "__main__":
    main()
