"""Time to the first token of a RAG chat beside Haystack's: `python -m tests.bench.rag_ttft`.

Both ask the same models of one server about the same chunks: hybrid retrieval of 50 candidates, 20 of them reranked,
three in the prompt. Ours is a chat over HTTP; Haystack's pipeline runs in the process of its client, with its store in
memory. They take turns at questions of which none comes twice. With `echo` as the generator all but the model's own
time is left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from gateway.client import Server
from tests.bench.processes import running, wait_until_answers
from tests.bench.rag_ingest import put

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"embedder": "all-minilm-l6-v2", "reranker": "minilm-maxsim"}
GENERATOR = "smollm2-135m-instruct"
TOP_K = 3
_DOCUMENTS = ("README.md", "CONTRIBUTING.md", "gateway/DECISIONS.md")
_SUBJECTS = (
    "rate limits", "batching", "TLS", "tracing", "metrics", "tenants", "routing", "health checks", "ensembles",
    "shared memory", "tool calls", "embeddings", "reranking", "restarts", "adapters", "prefix caches", "quotas",
    "access logs", "timeouts", "model repositories",
)  # fmt: skip
_ASKED = ("How do {} work here?", "What must I configure for {}?", "Which limits do {} have?", "Who uses {}?")
_PORT = 21320


def repository(folder: Path, generator: str) -> Path:
    """The models, and a pipeline over them."""
    folder.mkdir()
    for name in MODELS.values():
        (folder / name).symlink_to(ROOT / "model_repository" / name)
    recipe = {"generator": generator, **MODELS, "stores": ["bench"], "top_k": TOP_K}
    if generator == "echo":
        write(folder / "echo", 'backend: "echo"\n', "model.json", {})
    else:
        (folder / generator).symlink_to(ROOT / "model_repository" / generator)
    write(folder / "rag", 'backend: "rag"\n', "pipeline.json", recipe)
    return folder


def write(folder: Path, config: str, name: str, arguments: dict[str, Any]) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / name).write_text(json.dumps(arguments))


def ours(server: Server, question: str) -> float:
    body = {"model": "rag", "messages": [{"role": "user", "content": question}], "max_tokens": 8, "temperature": 0}
    began = time.perf_counter()
    took = 0.0
    for event in server.events("/v1/chat/completions", {**body, "stream": True}):
        if not took and event["choices"] and event["choices"][0]["delta"].get("content"):
            took = 1000 * (time.perf_counter() - began)
    return took


def measure(venv: Path, generator: str, questions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        argv = [str(Path(sys.executable).with_name("tritium")), "serve", "--data-dir", f"{scratch}/data"]
        argv += ["--model-repository", str(repository(Path(scratch) / "models", generator)), "--no-access-log"]
        argv += ["--http-port", str(_PORT), "--grpc-port", str(_PORT + 1), "--metrics-port", str(_PORT + 2)]
        with running(argv):
            wait_until_answers(f"http://127.0.0.1:{_PORT}/health/ready")
            server = Server(f"http://127.0.0.1:{_PORT}")
            store = server.post("/v1/vector_stores", b'{"name": "bench"}')["id"]
            ids = put(server, store, [(ROOT / name).read_text() for name in _DOCUMENTS])
            paths = [f"/v1/vector_stores/{store}/files/{file_id}/content" for file_id in ids]
            chunks = [chunk["text"] for path in paths for chunk in server.get(path)["data"]]
            compare(venv, server, {**MODELS, "generator": generator}, chunks, questions)


def theirs(haystack: subprocess.Popen[str], question: str) -> float:
    tell(haystack, question)
    assert haystack.stdout
    return float(haystack.stdout.readline())


def tell(haystack: subprocess.Popen[str], what: object) -> None:
    assert haystack.stdin
    print(json.dumps(what), file=haystack.stdin, flush=True)


def compare(venv: Path, server: Server, models: dict[str, str], chunks: list[str], questions: list[str]) -> None:
    argv = [str(venv / "bin" / "python"), str(Path(__file__).with_name("haystack_chat.py"))]
    given = {"url": f"{server.url}/v1", "models": models, "chunks": chunks, "top_k": TOP_K}
    took: dict[str, list[float]] = {"ours": [], "haystack": []}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as haystack:
        tell(haystack, given)
        for number, question in enumerate(questions):
            turns = [("ours", partial(ours, server)), ("haystack", partial(theirs, haystack))]
            for name, ask in turns if number % 2 else reversed(turns):
                milliseconds = ask(question)
                if number >= 2:  # the first ones open connections and caches
                    took[name].append(milliseconds)
        tell(haystack, None)
    medians = {name: statistics.median(values) for name, values in took.items()}
    print(
        f"{models['generator']}: first token after {medians['ours']:.0f} ms, Haystack {medians['haystack']:.0f} ms:"
        f" {medians['ours'] / medians['haystack']:.2f} x (median of {len(took['ours'])}, {len(chunks)} chunks)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "haystack")
    parser.add_argument("--questions", type=int, default=22)
    parser.add_argument("--generator", action="append", help="echo and the demo's model where none is given")
    options = parser.parse_args()
    subprocess.run([str(Path(__file__).with_name("haystack.sh")), str(options.venv)], check=True)
    questions = [asked.format(subject) for asked in _ASKED for subject in _SUBJECTS][: options.questions]
    for generator in options.generator or ["echo", GENERATOR]:
        measure(options.venv, generator, questions)


if __name__ == "__main__":
    main()
