from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from backends.errors import ServingError, Unavailable, UnsupportedOperation, UpstreamError, UpstreamProtocolError
from backends.model import Capability, OpenAIResponse
from ensembles.asking import ask
from ensembles.together import together
from tests.ensembles.house import FakeBody, FakeModel, House, answered, asked


class Count(msgspec.Struct):
    count: int


async def count(answer: Any) -> Count:
    model = FakeModel("m", tokenize=lambda _: answer)
    turn = asked(tenant="eve")
    turn.deadline = 5.0
    turn.headers = ((b"traceparent", b"t"),)
    told = await ask(House(model), Capability.TOKENIZE, "/tokenize", {"model": "m"}, Count, turn)  # type: ignore[arg-type]
    (request,) = model.requests
    assert (request.tenant, request.deadline, request.headers) == ("eve", 5.0, turn.headers)
    assert model.bodies[-1].closed
    return told


async def test_an_answer_is_read_on_behalf_of_the_turns_request() -> None:
    assert await count(answered({"count": 3, "tokens": []})) == Count(3)


@pytest.mark.parametrize(
    ("status", "error"), [(429, Unavailable), (503, Unavailable), (400, UpstreamError), (500, UpstreamError)]
)
async def test_what_a_model_refuses_is_an_error_with_its_words(status: int, error: type[ServingError]) -> None:
    with pytest.raises(error, match=f"'m' answered {status}: .*too long"):
        await count(answered({"error": "too long"}, status))


@pytest.mark.parametrize("body", [b"{", b'{"count": "three"}', b"[]"])
async def test_an_answer_that_is_another_is_the_models_fault(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="not what was asked for"):
        await count(OpenAIResponse(200, (), FakeBody(body)))


async def test_a_model_that_cannot_is_not_asked() -> None:
    model = FakeModel("m")
    with pytest.raises(UnsupportedOperation, match="does not support rerank"):
        await ask(House(model), Capability.RERANK, "/v1/rerank", {"model": "m"}, Count, asked())  # type: ignore[arg-type]
    assert model.asked == []


async def test_where_one_fails_the_others_are_cancelled_and_its_error_is_raised() -> None:
    cancelled = False

    async def wait() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def fail() -> None:
        raise Unavailable("down")

    with pytest.raises(Unavailable, match="down"):
        await together([wait(), fail()])
    assert cancelled


async def test_results_come_in_order() -> None:
    async def give(value: int) -> int:
        return value

    assert await together(map(give, range(3))) == [0, 1, 2]
