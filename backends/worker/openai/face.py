"""The OpenAI face of a tensor model that takes texts: which operations it has, and their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from backends.config import ModelConfig
from backends.model import Begun, Capability, Frame, OpenAIRequest, OpenAIResponse, TensorModel, Write
from backends.worker.openai import embedding
from backends.worker.openai.ranking import rerank, score
from backends.worker.text import Text, read

Operation = Callable[[TensorModel, Text, OpenAIRequest], Awaitable[bytes]]

_RANKING = {Capability.RERANK: rerank, Capability.SCORE: score}
_OPERATIONS: dict[str, dict[Capability, Operation]] = {
    "embed": {Capability.EMBEDDINGS: embedding.embed},
    "rerank": dict(_RANKING),
    "maxsim": dict(_RANKING),
    "classify": {},
}
_BEGINNINGS: dict[Capability, Callable[[TensorModel, Text, OpenAIRequest], Begun | None]] = {
    Capability.EMBEDDINGS: embedding.begin,
}
_BY_PATH = {"embeddings": Capability.EMBEDDINGS, "rerank": Capability.RERANK, "score": Capability.SCORE}


class Face:
    """Answers requests of the OpenAI surface by inferences. `capabilities` is empty for a model without texts."""

    def __init__(self, config: ModelConfig) -> None:
        """Raises `InvalidRequest` for a configuration that is wrong about its texts."""
        self._text = read(config)
        self._operations = _OPERATIONS[self._text.task] if self._text is not None else {}
        self.capabilities = frozenset(self._operations)

    def begin(self, model: TensorModel, request: OpenAIRequest) -> Begun | None:
        """Begin what one inference answers, by a model whose responses are `Listenable`; None where it takes more.

        Raises `ServingError`.
        """
        operation = _BEGINNINGS.get(_BY_PATH[request.path.rpartition("/")[2]])
        if operation is None or self._text is None:
            return None
        return operation(model, self._text, request)

    async def respond(self, model: TensorModel, request: OpenAIRequest) -> OpenAIResponse:
        """The whole answer. Raises `ServingError`; cancelling it cancels the inferences."""
        operation = self._operations[_BY_PATH[request.path.rpartition("/")[2]]]
        assert self._text is not None
        body = await operation(model, self._text, request)
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        return OpenAIResponse(200, fields, AtHand(body))


class AtHand:
    """A body that is there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data

    async def pump(self, write: Write, frame: Frame | None = None) -> None:  # noqa: ARG002  # nothing comes in pieces
        waits = write(await anext(self))
        if waits is not None:
            await waits

    async def aclose(self) -> None:
        self._data = b""
