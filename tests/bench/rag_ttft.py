"""Time to the first token of a RAG chat beside Haystack's: `python -m tests.bench.rag_ttft`.

All ask the same models about the same chunks: hybrid retrieval of 50 candidates, 20 of them reranked, three in the
prompt. Haystack's pipeline runs in the process of its client, with its store in memory; once with embedder and reranker
there too, by onnxruntime, as its own components have them, and once with those of a server of ours, whose reranker
keeps passages' token vectors for it. Its generator is a server's both times. Ours is a chat over HTTP, once as the
demo's is, with excerpts of the passages in the prompt, and once with whole passages, as Haystack's prompt has them.

Each has a server of its own, so that none finds in its caches what another has asked, and they take turns at questions
of which none comes twice. The first twenty, each of another subject, meet most passages for the first time: they are
told apart from those that follow, each with the share of its passages that were kept. Ours puts whole passages into an
order of which the engine may have the beginning computed (`order`); how many tokens the engine computes for each
depends on nothing else that the machine does. With `echo` as the generator all but the model's own time is left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.client import Server
from tests.bench.processes import get, running, wait_until_answers
from tests.bench.rag_ingest import put, uploaded

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
_OPENING = ("What is this?", "Where do I begin?")
_FIRST_PORT = 21320
_OURS: dict[str, dict[str, dict[str, Any]]] = {
    "ours, excerpts": {"excerpt": {}},
    "ours, whole passages": {"prompt": {"order": "reuse"}},
}
_HAYSTACK: dict[str, dict[str, str] | None] = {
    "Haystack, models in its process": {
        part: str(ROOT / "model_repository" / name / "1") for part, name in MODELS.items()
    },
    "Haystack, models of a server": None,
}


class Side(Protocol):
    """One of those that are compared; `metrics` is where its models' server tells what it counted."""

    name: str
    metrics: str

    def ask(self, question: str) -> float:
        """Milliseconds to the first text of the answer."""
        ...


class Ours:
    """A chat with our pipeline; `steps` are the milliseconds of its steps, a dictionary a question."""

    def __init__(self, name: str, server: Server, metrics: str) -> None:
        self.name = name
        self.metrics = metrics
        self._server = server
        self.steps: list[dict[str, float]] = []

    def ask(self, question: str) -> float:
        body = {"model": "rag", "messages": [{"role": "user", "content": question}], "max_tokens": 8, "temperature": 0}
        options = {"stream": True, "stream_options": {"include_usage": True}, "include_timings": True}
        began = time.perf_counter()
        took = 0.0
        for event in self._server.events("/v1/chat/completions", {**body, **options}):
            if not took and event["choices"] and event["choices"][0]["delta"].get("content"):
                took = 1000 * (time.perf_counter() - began)
            if "rag" in event:
                self.steps.append({step: 1000 * seconds for step, seconds in event["rag"]["timings"].items()})
        return took


class Haystack:
    """Haystack's pipeline in a process of its own, which ends once it is told None."""

    def __init__(self, name: str, process: subprocess.Popen[str], metrics: str) -> None:
        self.name = name
        self.metrics = metrics
        self._process = process

    def tell(self, what: object) -> None:
        assert self._process.stdin
        print(json.dumps(what), file=self._process.stdin, flush=True)

    def ask(self, question: str) -> float:
        self.tell(question)
        assert self._process.stdout
        return float(self._process.stdout.readline())


def repository(folder: Path, generator: str, steps: dict[str, dict[str, Any]]) -> Path:
    """The models, and a pipeline over them with these steps."""
    retrieving(folder)
    recipe = {"generator": generator, **MODELS, "stores": ["bench"], "top_k": TOP_K, "steps": steps}
    if generator == "echo":
        write(folder / "echo", 'backend: "echo"\n', "model.json", {})
    else:
        (folder / generator).symlink_to(ROOT / "model_repository" / generator)
    write(folder / "rag", 'backend: "rag"\n', "pipeline.json", recipe)
    return folder


def retrieving(folder: Path) -> None:
    """A new model repository with the demo's embedder and reranker."""
    folder.mkdir(parents=True)
    for name in MODELS.values():
        (folder / name).symlink_to(ROOT / "model_repository" / name)


def write(folder: Path, config: str, name: str, arguments: dict[str, Any]) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / name).write_text(json.dumps(arguments))


@contextmanager
def serving(models: Path, data: Path, port: int) -> Iterator[tuple[Server, str]]:
    """A server of these models, and the address of its metrics."""
    argv = [str(Path(sys.executable).with_name("tritium")), "serve", "--data-dir", str(data), "--no-access-log"]
    argv += ["--model-repository", str(models), "--http-port", str(port)]
    with running([*argv, "--grpc-port", str(port + 1), "--metrics-port", str(port + 2)]):
        wait_until_answers(f"http://127.0.0.1:{port}/health/ready")
        yield Server(f"http://127.0.0.1:{port}"), f"http://127.0.0.1:{port + 2}/metrics"


def measure(venv: Path, generator: str, questions: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        sides: list[Side] = []
        chunks: list[str] = []

        def served(steps: dict[str, dict[str, Any]]) -> tuple[Server, str]:
            place = len(sides)
            folder = Path(scratch) / str(place)
            models = repository(folder / "models", generator, steps)
            return stack.enter_context(serving(models, folder, _FIRST_PORT + 10 * place))

        for name, steps in _OURS.items():
            server, metrics = served(steps)
            chunks = ingested(server)
            sides.append(Ours(name, server, metrics))
        for name, files in _HAYSTACK.items():
            server, metrics = served({})
            given = {"url": f"{server.url}/v1", "models": {**MODELS, "generator": generator}, "files": files}
            haystack = Haystack(name, stack.enter_context(haystack_process(venv)), metrics)
            haystack.tell({**given, "chunks": chunks, "top_k": TOP_K})
            stack.callback(haystack.tell, None)
            sides.append(haystack)
        print(f"{generator}, {len(chunks)} chunks", flush=True)
        compare(sides, questions)


@contextmanager
def haystack_process(venv: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [str(venv / "bin" / "python"), str(Path(__file__).with_name("haystack_chat.py"))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def ingested(server: Server) -> list[str]:
    """The chunks that came of the documents."""
    store = server.post("/v1/vector_stores", b'{"name": "bench"}')["id"]
    ids = uploaded(server, [(ROOT / name).read_text() for name in _DOCUMENTS])
    put(server, store, ids)
    paths = [f"/v1/vector_stores/{store}/files/{file_id}/content" for file_id in ids]
    return [chunk["text"] for path in paths for chunk in server.get(path)["data"]]


def compare(sides: Sequence[Side], questions: Sequence[str]) -> None:
    in_turns(sides, _OPENING)  # connections are opened
    new = len(_SUBJECTS)
    ours = [side for side in sides if isinstance(side, Ours)]
    for name, part in (("new subjects", questions[:new]), ("subjects met before", questions[new:])):
        if not part:
            continue
        for side in ours:
            side.steps.clear()
        before = [counted(side) for side in sides]
        took = in_turns(sides, part)
        print(f"  {name} ({len(part)} questions): median milliseconds to the first token", flush=True)
        theirs = [each for side, each in zip(sides, took, strict=True) if isinstance(side, Haystack)]
        for side, each, had in zip(sides, took, before, strict=True):
            told = counted(side).since(had, len(part))
            beside = "".join(f" {each / other:5.2f} x" for other in theirs) if isinstance(side, Ours) else ""
            print(f"    {side.name:<35} {each:6.0f}{beside:<18} {told}", flush=True)
        for side in ours:
            steps = {step: statistics.median(each.get(step, 0.0) for each in side.steps) for step in side.steps[0]}
            print(f"    {side.name}: {', '.join(f'{step} {each:.1f}' for step, each in steps.items())}", flush=True)


def in_turns(sides: Sequence[Side], questions: Sequence[str]) -> list[float]:
    """The median of each side's milliseconds; who asks first changes with each question."""
    took: list[list[float]] = [[] for _ in sides]
    for number, question in enumerate(questions):
        for index in range(len(sides)):
            place = (index + number) % len(sides)
            took[place].append(sides[place].ask(question))
    return [statistics.median(values) for values in took]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a side's models have counted: passages that were kept, those that were not, tokens of prompts computed."""

    hits: float
    misses: float
    prompt_tokens: float

    def since(self, before: Counted, questions: int) -> str:
        hits, misses = self.hits - before.hits, self.misses - before.misses
        computed = (self.prompt_tokens - before.prompt_tokens) / questions
        return f"{hits / max(1, hits + misses):.0%} of passages kept, {computed:.0f} tokens of a prompt computed"


def counted(side: Side) -> Counted:
    lines = [*get(side.metrics).splitlines(), *get(f"{side.metrics}/engines").splitlines()]

    def value(name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    hits, misses = value("tritium_passage_cache_hits_total"), value("tritium_passage_cache_misses_total")
    return Counted(hits, misses, value("llamacpp:prompt_tokens_total"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "haystack")
    parser.add_argument("--questions", type=int, default=len(_ASKED) * len(_SUBJECTS))
    parser.add_argument("--generator", action="append", help="echo and the demo's model where none is given")
    options = parser.parse_args()
    subprocess.run([str(Path(__file__).with_name("haystack.sh")), str(options.venv)], check=True)
    questions = [asked.format(subject) for asked in _ASKED for subject in _SUBJECTS][: options.questions]
    for generator in options.generator or ["echo", GENERATOR]:
        measure(options.venv, generator, questions)


if __name__ == "__main__":
    main()
