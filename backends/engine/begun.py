"""Responses that are made by a generator of this process: begun at once, counted, ended early by who leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Self

from backends.errors import ServingError
from backends.model import InferResponse
from backends.statistics import ModelStatistics

Answers = AsyncGenerator[InferResponse, None]


class Begun:
    """A `Responses`. `answers` must end with a final response, or with a `ServingError`."""

    def __init__(self, answers: Answers, counted: ModelStatistics, rows: int = 1) -> None:
        self._answers = answers
        self._counted = counted
        self._rows = rows
        self._began_ns = time.monotonic_ns()
        self._first: asyncio.Task[InferResponse] | None = asyncio.ensure_future(_next(answers))
        self._has_answered = False
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> InferResponse:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            if self._first is None:
                response = await anext(self._answers)
            else:
                response = await self._first
                self._first = None
        except ServingError:
            await self._end("BACKEND")
            raise
        if not self._has_answered:
            self._has_answered = True
            self._counted.first_response(time.monotonic_ns() - self._began_ns)
        if response.final:
            await self._end("" if response.error is None else "BACKEND")
        return response

    async def aclose(self) -> None:
        await self._end("CANCELED")

    async def _end(self, failure: str) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._counted.settle(self._rows, time.monotonic_ns() - self._began_ns, failure)
        first, self._first = self._first, None
        if first is not None:
            first.cancel()
            await asyncio.wait([first])
            if not first.cancelled():
                first.exception()  # nobody asks for it any more
        await self._answers.aclose()


async def _next(answers: Answers) -> InferResponse:
    return await anext(answers)
