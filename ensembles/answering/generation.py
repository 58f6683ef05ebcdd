"""The generator's answer to a prepared turn, under a permit of the generator's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from backends.engine.replicas import EngineModel
from backends.errors import UnsupportedOperation
from backends.model import Body, Capability, Frame, OpenAIModel, OpenAIRequest, OpenAIResponse, Write

CHAT = "/v1/chat/completions"


async def generate(
    model: OpenAIModel, request: OpenAIRequest, body: bytes, *, stream: bool, is_permitted: bool
) -> OpenAIResponse:
    """Ask the generator by a chat; its head has come when this returns. Closing the body gives the permit back.

    The request itself goes on, with another body: whoever watches it watches the generator from now on.
    Raises what the model raises, `Overloaded` where its queue is full.
    """
    if Capability.CHAT not in model.capabilities:
        raise UnsupportedOperation(f"The generator '{model.config.name}' does not chat.", param="model")
    request.path, request.query, request.body, request.stream = CHAT, "", body, stream
    request.model = model.config.name
    gate = model.gate if isinstance(model, EngineModel) and not is_permitted else None
    if gate is None:
        return await model.respond(request)
    permit = await gate.enter()
    try:
        response = await model.respond(request)
    except BaseException:
        gate.leave(permit)
        raise
    response.body = _Permitted(response.body, lambda: gate.leave(permit))
    return response


class _Permitted:
    """A body at whose end, early or not, something is given back."""

    def __init__(self, body: Body, give_back: Callable[[], None]) -> None:
        self._body = body
        self._give_back: Callable[[], None] | None = give_back

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._body.__anext__()

    async def pump(self, write: Write, frame: Frame | None = None) -> None:
        await self._body.pump(write, frame)

    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()
        await self._body.aclose()
