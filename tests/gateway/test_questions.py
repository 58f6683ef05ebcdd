"""Questions to the supervisor: each gets its own answer, or the error that it was answered with."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import (
    Code,
    InferenceError,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    Unavailable,
    UpstreamTimeout,
)
from gateway.choice import NoVersion
from gateway.fleet import NotLoaded
from gateway.questions import Questions, error_name, nobody
from gateway.snapshot import Ask, LoadOrder, Told


class Line:
    """The way to a supervisor that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.is_gone = False

    async def send(self, question: Ask) -> None:
        if self.is_gone:
            raise ConnectionResetError
        self.asked.append(question)


async def test_answers_find_whoever_asked_in_any_order() -> None:
    line = Line()
    questions = Questions(line.send)
    asking = [asyncio.create_task(questions.ask("load", name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    for question in reversed(line.asked):
        questions.told(Told(question.id, question.subject.encode()))
    assert await asyncio.gather(*asking) == [b"a", b"b"]


@pytest.mark.parametrize("kind", [InvalidRequest, ModelNotFound, ModelNotReady, Unavailable, ServingError])
async def test_an_error_comes_out_as_what_it_was(kind: type[ServingError]) -> None:
    line = Line()
    questions = Questions(line.send)
    asking = asyncio.create_task(questions.ask("unload", "m"))
    await asyncio.sleep(0)
    questions.told(Told(line.asked[0].id, error=kind.__name__, message="no"))
    with pytest.raises(kind, match="no") as raised:
        await asking
    assert type(raised.value) is kind


async def test_an_inference_error_keeps_its_code() -> None:
    line = Line()
    questions = Questions(line.send)
    asking = asyncio.create_task(questions.ask("kserve_load", "m", LoadOrder("{}")))
    await asyncio.sleep(0)
    assert line.asked[0].order.config == "{}"
    questions.told(Told(line.asked[0].id, error="InferenceError", message="no", status=Code.INVALID_ARG))
    with pytest.raises(InferenceError, match="no") as raised:
        await asking
    assert raised.value.status is Code.INVALID_ARG


def test_an_error_is_named_by_the_nearest_class_that_is_known_there() -> None:
    assert error_name(NotLoaded("m", {})) == "ModelNotReady"
    assert error_name(NoVersion("m")) == "InvalidRequest"
    assert error_name(UpstreamTimeout("m")) == "ServingError"


async def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    line = Line()
    questions = Questions(line.send)
    asking = asyncio.create_task(questions.ask("load", "m"))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    questions.told(Told(line.asked[0].id))


async def test_a_supervisor_that_has_gone_is_unavailable() -> None:
    line = Line()
    line.is_gone = True
    with pytest.raises(Unavailable, match="has gone"):
        await Questions(line.send).ask("models")


async def test_without_a_supervisor_there_is_nobody_to_ask() -> None:
    with pytest.raises(Unavailable, match="no supervisor"):
        await Questions(nobody).ask("models")
