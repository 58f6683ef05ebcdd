"""A kind's engine as its `launch` says, started for a test, and a model as its `connect` makes it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.environment import interpreter
from backends.engine.probe import get
from backends.engine.replicas import EngineModel
from backends.errors import ServingError
from backends.kinds import find_kind
from backends.model import ENGINE_CAPABILITIES, Capability, Endpoint, Endpoints, Models, OpenAIRequest, State
from backends.repository import load
from backends.weights import missing
from tests.servers import ROOT, unavailable
from tests.waiting import eventually

DEMO_MODEL = "smollm2-135m-instruct"
STOP_SECONDS = 20.0


class NoModels:
    """No other model may be called."""

    def openai(self, name: str) -> EngineModel:
        raise AssertionError(f"{name} was called")


NO_MODELS: Models = NoModels()


@dataclass(slots=True)
class Engine:
    """A running engine. Each question goes through a model of its own, connected in the test's event loop."""

    config: ModelConfig
    command: Command
    process: subprocess.Popen[bytes]

    def model(self) -> EngineModel:
        endpoints = Endpoints((Endpoint("engine-0", self.command.address, State.READY),))
        return find_kind(self.config.backend).connect(self.config, endpoints, NO_MODELS)

    async def ask(self, path: str, **fields: Any) -> tuple[int, bytes]:
        """POST to the model under its own name: the status and the whole body."""
        model = self.model()
        body = json.dumps({"model": self.config.name, **fields}).encode()
        try:
            request = OpenAIRequest(path, body, self.config.name, stream=bool(fields.get("stream")))
            response = await model.respond(request)
            try:
                return response.status, b"".join([data async for data in response.body])
            finally:
                await response.body.aclose()
        finally:
            model.close()

    async def answer(self, path: str, **fields: Any) -> Any:
        """As `ask`, decoded; it must be a success."""
        status, body = await self.ask(path, **fields)
        assert status == 200, body
        return json.loads(body)

    async def chunks(self, path: str, **fields: Any) -> list[dict[str, Any]]:
        """The chunks of a stream, which must end with `[DONE]`."""
        status, body = await self.ask(path, stream=True, stream_options={"include_usage": True}, **fields)
        assert status == 200, body
        events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event.startswith("data: ")]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    async def get(self, path: str) -> tuple[int, str]:
        status, body = await get(self.command.address, path, 5.0, 1 << 22)
        return status, body.decode()

    async def gauge(self, name: str) -> float:
        """The sum of a gauge of the engine's metrics."""
        _, text = await self.get("/metrics")
        lines = [line for line in text.splitlines() if line.startswith(name) and line[len(name)] in " {"]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def demo(config_name: str = "", repository: Path = ROOT / "model_repository") -> ModelConfig:
    """The one model of a repository, or the demo, with its weights; the test is skipped when they are not there."""
    found = load([repository], config_name or None)
    config = found[0] if len(found) == 1 else next(model for model in found if model.name == DEMO_MODEL)
    assert isinstance(config, ModelConfig), config
    if lacking := missing(repository / config.name):
        unavailable(f"{lacking[0]} of {config.name} is not fetched")
    if config_name and not (Path(config.path) / "hf" / "config.json").exists():
        unavailable(f"the weights of {config.name} are not converted: run `make engines`")
    if config.backend != "llamacpp":
        try:
            interpreter(config.backend)
        except ServingError as error:
            unavailable(error.message)
    return config


@contextmanager
def running(config: ModelConfig, *, seconds: float = 60.0) -> Iterator[Engine]:
    """Start the engine and wait until it is healthy; stop it, and what it started, at the end."""
    scratch = Path(tempfile.mkdtemp(prefix="engine-"))
    (command,) = find_kind(config.backend).launch(config, runtime_dir=str(scratch))
    log = scratch / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd or ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **command.env},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def is_healthy() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            return asyncio.run(get(command.address, command.health, 2.0, 1 << 16))[0] == 200
        except ServingError:
            return False

    try:
        eventually(is_healthy, seconds=seconds, what="health")
        yield Engine(config, command, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


PATHS = {
    Capability.CHAT: "/v1/chat/completions",
    Capability.COMPLETIONS: "/v1/completions",
    Capability.EMBEDDINGS: "/v1/embeddings",
    Capability.RESPONSES: "/v1/responses",
    Capability.MESSAGES: "/v1/messages",
    Capability.COUNT_TOKENS: "/v1/messages/count_tokens",
    Capability.RERANK: "/v1/rerank",
    Capability.SCORE: "/v1/score",
    Capability.TOKENIZE: "/tokenize",
    Capability.DETOKENIZE: "/detokenize",
}
_MESSAGES = {"messages": [{"role": "user", "content": "Hello"}]}
_SMALLEST: dict[Capability, dict[str, Any]] = {
    Capability.CHAT: {**_MESSAGES, "max_tokens": 1},
    Capability.COMPLETIONS: {"prompt": "Hello", "max_tokens": 1},
    Capability.EMBEDDINGS: {"input": "Hello"},
    Capability.RESPONSES: {"input": "Hello", "max_output_tokens": 1},
    Capability.MESSAGES: {**_MESSAGES, "max_tokens": 1},
    Capability.COUNT_TOKENS: _MESSAGES,
    Capability.RERANK: {"query": "a cat", "documents": ["a kitten", "a ship"]},
    Capability.SCORE: {"text_1": "a cat", "text_2": "a kitten"},
    Capability.TOKENIZE: {"prompt": "Hello"},
    Capability.DETOKENIZE: {"tokens": [1, 2]},
}


async def offered(engine: Engine) -> set[Capability]:
    """What the engine itself answers, asked for everything in the smallest way."""
    return {
        capability
        for capability in ENGINE_CAPABILITIES
        if (await engine.ask(PATHS[capability], **_SMALLEST[capability]))[0] == 200
    }
