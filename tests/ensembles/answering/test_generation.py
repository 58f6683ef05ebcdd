"""The generator's permit: waited for before it is asked, given back when its answer is closed or when there is none."""

from __future__ import annotations

import asyncio

import pytest

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.errors import UpstreamError
from backends.model import Capability, Endpoints, OpenAIRequest, OpenAIResponse
from ensembles.answering.generation import generate
from gateway.admission import Gate
from tests.ensembles.house import FakeBody, question


class Gated(EngineModel):
    """An engine with one permit that answers at once, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(
            ModelConfig("m", "echo"), Endpoints(), capabilities=frozenset({Capability.CHAT}), parallelism=1
        )
        self.gate = Gate("m", 1, 10)
        self.failure = failure
        self.asked: list[OpenAIRequest] = []

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        return OpenAIResponse(200, (), FakeBody(b"answer"))


async def ask(model: Gated, *, is_permitted: bool = False) -> OpenAIResponse:
    return await generate(model, question(), b"{}", stream=False, is_permitted=is_permitted)


async def test_the_next_one_waits_until_the_answer_is_closed() -> None:
    model = Gated()
    first = await ask(model)
    second = asyncio.create_task(ask(model))
    await asyncio.sleep(0)
    assert len(model.asked) == 1
    written: list[bytes] = []
    await first.body.pump(written.append)
    await first.body.aclose()
    await first.body.aclose()
    assert [piece async for piece in (await second).body] == written == [b"answer"]
    assert model.gate is not None
    assert model.gate.running == 1


async def test_a_permit_comes_back_where_there_is_no_answer() -> None:
    model = Gated(UpstreamError("broken"))
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await ask(model)
    assert model.gate is not None
    assert model.gate.running == 0


async def test_who_has_a_permit_already_takes_no_second_one() -> None:
    model = Gated()
    await ask(model, is_permitted=True)
    await ask(model, is_permitted=True)
    assert model.gate is not None
    assert model.gate.running == 0


async def test_the_request_itself_goes_on_to_the_generator() -> None:
    model = Gated()
    request = question()
    await generate(model, request, b"{}", stream=True, is_permitted=False)
    assert model.asked == [request]
    assert model.asked[0] is request
    assert (request.model, request.path, request.body, request.stream) == ("m", "/v1/chat/completions", b"{}", True)
