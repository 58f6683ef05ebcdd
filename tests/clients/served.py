"""A real engine behind `tritium serve`: official clients in front of it, and a look at the engine itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from backends.engine.environment import interpreter
from backends.engine.load import METRICS_PATHS
from backends.errors import ServingError
from backends.weights import missing
from tests.conftest import DEMO_MODEL
from tests.faults.looking import samples
from tests.processes import command_line, descendants
from tests.servers import ROOT, Tritium, serving, unavailable
from tests.waiting import eventually

EMBEDDER = "minilm-vllm"
START_SECONDS = 300.0
REPOSITORIES = {DEMO_MODEL: ROOT / "model_repository", EMBEDDER: ROOT / "tests" / "model_repository"}

# What each kind calls the requests that it runs now, and the tokens it generated.
RUNNING = {
    "llamacpp": "llamacpp:requests_processing",
    "tensorrtllm": "trtllm_num_requests_running",
    "vllm": "vllm:num_requests_running",
}
GENERATED = {
    "llamacpp": "llamacpp:tokens_predicted_total",
    "tensorrtllm": "trtllm_generation_tokens_total",
    "vllm": "vllm:generation_tokens_total",
}
# What the command line of an engine's process has in it.
PROCESS = {"llamacpp": "backends.engine.llamacpp_server", "vllm": "api_server", "transformers": "transformers_server"}


@dataclass(frozen=True, slots=True)
class Served:
    kind: str
    server: Tritium
    model: str = DEMO_MODEL
    engine_url: str = ""
    """Where the engine listens, if not on a Unix socket."""

    @property
    def freed_seconds(self) -> float:
        """How long it may take to see that its client left, on a busy machine; TensorRT-LLM looks each second."""
        return 2.5 if self.kind == "tensorrtllm" else 2.0

    def openai(self, *, timeout: float = 60) -> OpenAI:
        return OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0, timeout=timeout)

    def openai_async(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0)

    def anthropic(self) -> Anthropic:
        return Anthropic(base_url=self.server.url, api_key="none", max_retries=0)

    def anthropic_async(self) -> AsyncAnthropic:
        return AsyncAnthropic(base_url=self.server.url, api_key="none", max_retries=0)

    def post(self, path: str, model: str = "", **fields: Any) -> Any:
        """What the official clients have no method for; it must succeed."""
        answer = httpx.post(f"{self.server.url}{path}", json={"model": model or self.model, **fields}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def prompt_tokens(self, **asked: Any) -> int:
        """How many tokens `messages` or a `prompt` are, by the engine's tokenizer or, where it has none, its usage."""
        if self.kind == "tensorrtllm":
            self.refuses("/tokenize", **asked)
            path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
            return int(self.post(path, **asked, max_tokens=1)["usage"]["prompt_tokens"])
        return int(self.post("/tokenize", **asked)["count"])

    def refuses(self, path: str, **fields: Any) -> None:
        """It says that it has no such thing."""
        answer = httpx.post(f"{self.server.url}{path}", json={"model": self.model, **fields}, timeout=60)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "unsupported_operation"

    def metric(self, name: str, model: str = "") -> float:
        """The sum of a metric of the engine, asked for directly."""
        socket = None if self.engine_url else str(self.server.runtime_dir / f"{model or self.model}-1.sock")
        transport = httpx.HTTPTransport(uds=socket)
        with httpx.Client(transport=transport, base_url=self.engine_url or "http://engine") as engine:
            text = engine.get(METRICS_PATHS[self.kind]).raise_for_status().text
        found = text_string_to_metric_families(text)
        return sum(sample.value for family in found for sample in family.samples if sample.name == name)

    def exported_metric(self, name: str) -> float:
        """The same, as the gateway exports it with the model's name as a label."""
        labelled = ("model", self.model)
        found = samples(self.server, "/metrics/engines").items()
        return sum(value for (sample, labels), value in found if sample == name and labelled in labels)

    def running(self) -> float:
        return self.metric(RUNNING[self.kind])

    def process(self) -> int:
        """The engine's own process, the first below its guard. Of several engines, that of this model."""
        found = [
            pid
            for pid in descendants(self.server.pid)
            if PROCESS[self.kind] in (line := command_line(pid)) and "guard" not in line and f"{self.model}-1" in line
        ]
        assert found, "the engine is not there"
        return found[0]

    def state(self) -> str:
        state: str = httpx.get(f"{self.server.url}/v1/models/{self.model}").json()["state"]
        return state


@contextmanager
def serving_kind(kind: str, *models: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Serve `models` by engines of this kind until the block ends; skipped where it cannot be done."""
    for model in models:
        if lacking := missing(REPOSITORIES[model] / model):
            unavailable(f"{lacking[0]} of {model} is not fetched: run `make test-weights`")
    if kind != "llamacpp":
        require(kind)
    flags = [part for model in models for part in ("--model-repository", str(REPOSITORIES[model]))]
    flags += ["--model-control-mode", "explicit", *(part for model in models for part in ("--load-model", model))]
    if kind != "llamacpp":
        flags += ["--model-config-name", kind]
    with ExitStack() as stack:
        server = stack.enter_context(
            serving(
                REPOSITORIES[models[0]], *flags, "--strict-readiness", environment=environment or {}, is_awaited=False
            )
        )
        eventually(server.is_ready, seconds=START_SECONDS, what=f"readiness of {kind}")
        yield Served(kind, server)


def require(kind: str) -> None:
    """Skip the test where the engine's environment or the converted weights are not there; CI has no such excuse."""
    if not (REPOSITORIES[DEMO_MODEL] / DEMO_MODEL / "1" / "hf" / "config.json").exists():
        unavailable(f"the weights of {DEMO_MODEL} are not converted: run `make engines`")
    try:
        interpreter(kind)
    except ServingError as error:
        unavailable(error.message)


def below(pid: int) -> set[int]:
    """The process and all below it."""
    return {pid, *descendants(pid)}


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and bool(command_line(pid))


def cpu_seconds(pid: int) -> float:
    """What the process has used of the processors."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
