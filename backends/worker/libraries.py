"""What kinds whose models a library runs have in common: a worker, and an OpenAI face where a model takes texts."""

from __future__ import annotations

from collections.abc import Sequence

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.errors import ModelNotReady
from backends.model import Begun, Endpoints, Models, OpenAIRequest, OpenAIResponse
from backends.worker import launching, text
from backends.worker.client import WorkerModel
from backends.worker.openai.face import Face


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One host, which starts the model's instances. Raises `InvalidRequest` for what is wrong about its texts."""
    text.read(config)
    return launching.launch(config, runtime_dir=runtime_dir)


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> WorkerModel:
    """A model that takes tensors; one that declares a task has its operations too. Raises `InvalidRequest`."""
    face = Face(config)
    return TextModel(config, endpoints, models, face) if face.capabilities else WorkerModel(config, endpoints, models)


class TextModel(WorkerModel):
    """A `TensorModel` that is a `ListenableModel` too: what it is asked there becomes inferences."""

    session_header = b""

    def __init__(self, config: ModelConfig, endpoints: Endpoints, models: Models, face: Face) -> None:
        super().__init__(config, endpoints, models, face.capabilities)
        self._face = face

    def lacking(self) -> ModelNotReady | None:
        return None if self.ready() else ModelNotReady(f"The model '{self.config.name}' has no process that is ready.")

    def begin(self, request: OpenAIRequest) -> Begun | None:
        return self._face.begin(self, request)

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        return await self._face.respond(self, request)
