"""What a server process asks of its supervisor, and the answers, over the control channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from backends.errors import (
    Code,
    InferenceError,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    Unavailable,
)
from gateway.snapshot import Action, Ask, LoadOrder, Told

_ERRORS: dict[str, type[ServingError]] = {
    kind.__name__: kind for kind in (InvalidRequest, ModelNotFound, ModelNotReady, Unavailable)
}


class Questions:
    """`send` puts a question on the channel; whoever reads the channel hands answers to `told`."""

    def __init__(self, send: Callable[[Ask], Awaitable[None]]) -> None:
        self._send = send
        self._next_id = count().__next__
        self._open: dict[int, asyncio.Future[Told]] = {}

    async def ask(self, action: Action, subject: str = "", order: LoadOrder | None = None) -> bytes:
        """The supervisor's answer, as JSON; it may take as long as a model takes to load. Raises what it raised."""
        question = Ask(self._next_id(), action, subject, order or LoadOrder())
        answered: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._open[question.id] = answered
        try:
            await self._send(question)
            told = await answered
        except ConnectionError as error:
            raise Unavailable("The supervisor has gone.") from error
        finally:
            del self._open[question.id]
        if told.status:
            raise InferenceError(told.message, Code(told.status))
        if told.error:
            raise _ERRORS.get(told.error, ServingError)(told.message)
        return told.answer

    def told(self, message: Told) -> None:
        """An answer has come. Whoever asked may have gone."""
        answered = self._open.get(message.id)
        if answered is not None and not answered.done():
            answered.set_result(message)


def error_name(error: ServingError) -> str:
    """The class of an error, as `Told` names it: the nearest that is known here."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), ServingError.__name__)


async def nobody(question: Ask) -> None:
    """Where there is no supervisor. Raises `Unavailable`."""
    raise Unavailable(f"Nobody is there to ask for {question.action}: this process has no supervisor.")
