"""What a server process asks of its supervisor, and the answers, over the control channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from backends.errors import InvalidRequest, ModelNotFound, ModelNotReady, ServingError, Unavailable
from gateway.snapshot import Action, Ask, Told

_ERRORS: dict[str, type[ServingError]] = {
    kind.__name__: kind for kind in (InvalidRequest, ModelNotFound, ModelNotReady, Unavailable)
}


class Questions:
    """`send` puts a question on the channel; whoever reads the channel hands answers to `told`."""

    def __init__(self, send: Callable[[Ask], Awaitable[None]]) -> None:
        self._send = send
        self._next_id = count().__next__
        self._open: dict[int, asyncio.Future[Told]] = {}

    async def ask(self, action: Action, subject: str = "") -> bytes:
        """The supervisor's answer, as JSON; it may take as long as a model takes to load. Raises what it raised."""
        question = Ask(self._next_id(), action, subject)
        answered: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._open[question.id] = answered
        try:
            await self._send(question)
            told = await answered
        except ConnectionError as error:
            raise Unavailable("The supervisor has gone.") from error
        finally:
            del self._open[question.id]
        if told.error:
            raise _ERRORS.get(told.error, ServingError)(told.message)
        return told.answer

    def told(self, message: Told) -> None:
        """An answer has come. Whoever asked may have gone."""
        answered = self._open.get(message.id)
        if answered is not None and not answered.done():
            answered.set_result(message)


async def nobody(question: Ask) -> None:
    """Where there is no supervisor. Raises `Unavailable`."""
    raise Unavailable(f"Nobody is there to ask for {question.action}: this process has no supervisor.")
