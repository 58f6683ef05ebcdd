"""What one of several engines keeps: responses, which are looked for, and prompts, of which policies learn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from backends.engine.replica import Replica
from backends.engine.replicas import EngineModel
from backends.model import OpenAIRequest
from tests.backends.engine.among import (
    STREAMED,
    WORDS,
    among,
    asked,
    fields,
    is_banned,
    requests,
    text,
    told,
)
from tests.engines import MODEL, EchoEngine

RESPONSES = "/v1/responses"
PATIENT = 1_000_000.0


# Stored responses


def remembered(previous: str, *, stream: bool = False, model: str = MODEL) -> OpenAIRequest:
    body: dict[str, Any] = {"model": model, "input": "one two", "stream": stream}
    if previous:
        body["previous_response_id"] = previous
    return OpenAIRequest(RESPONSES, json.dumps(body).encode(), model, stream=stream)


@STREAMED
async def test_a_stored_response_is_looked_for_at_the_others(stream: bool, two: list[EchoEngine]) -> None:
    async with among(two) as model:
        first = remembered("")
        answer = await told(await model.respond(first))
        assert first.route.endpoint == "e1"
        second = remembered(answer["id"], stream=stream)
        response = await model.respond(second)
        assert response.status == 200
        assert fields(response) == {b"x-tritium-endpoint": b"e1", b"x-tritium-retries": b"1"}
        whole = b"".join([part async for part in response.body])
        await response.body.aclose()
        assert answer["id"].encode() in whole
        assert second.route.failures == ["e0: It does not keep the response."]


async def test_a_response_that_nobody_keeps_is_not_found_and_nobodys_fault(two: list[EchoEngine]) -> None:
    async with among(two, retry_budget="1") as model:
        for _ in range(4):
            request = remembered("resp_nowhere")
            response = await model.respond(request)
            assert response.status == 404
            assert len(request.route.failures) == 2
        assert not any(map(is_banned, model.replicas.ready()))


async def test_another_thing_that_is_not_found_is_not_looked_for(two: list[EchoEngine]) -> None:
    async with among(two) as model:
        response = await model.respond(remembered("", model="nobody"))
        assert response.status == 404
        assert requests(two[0]) == 0


async def test_what_has_no_body_takes_turns(two: list[EchoEngine]) -> None:
    async with among(two, routing_policy="prefix") as model:
        turns = []
        for _ in range(4):
            request = OpenAIRequest("/v1/models", b"", MODEL, stream=False, method="GET")
            assert (await told(await model.respond(request)))["object"] == "list"
            turns.append(request.route.endpoint)
        assert turns == ["e1", "e0"] * 2


async def test_what_is_done_with_a_stored_response_takes_turns_too(two: list[EchoEngine]) -> None:
    async with among(two, routing_policy="prefix") as model:
        body = json.dumps({"model": MODEL, "input": "one", "background": True, "echo": {"ttft_ms": PATIENT}}).encode()
        kept = await told(await model.respond(OpenAIRequest(RESPONSES, body, MODEL, stream=False)))
        cancel = f"{RESPONSES}/{kept['id']}/cancel"
        statuses = [(await model.respond(OpenAIRequest(cancel, b"", MODEL, stream=False))).status for _ in two]
        assert sorted(statuses) == [200, 404]


# What policies learn


class Learning:
    """Asks the first, and keeps what it is told."""

    name = "learning"

    def __init__(self) -> None:
        self.lessons: list[tuple[str, OpenAIRequest, int, int]] = []

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:  # noqa: ARG002
        return replicas[0], "first"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        self.lessons.append((replica.endpoint.id, request, prompt_tokens, cached_tokens))


def taught(model: EngineModel) -> Learning:
    learning = model.replicas.policy = Learning()
    return learning


@STREAMED
async def test_a_policy_learns_what_was_cached_of_each_prompt(stream: bool, two: list[EchoEngine]) -> None:
    two[0].configure(prefix_cache_tokens=4096)
    async with among(two) as model:
        learning = taught(model)
        first, second = asked(stream=stream), asked(stream=stream)
        for request in (first, second):
            await text(await model.respond(request), stream=stream)
        (one, asked_first, prompt, cached), (_, asked_second, again, then_cached) = learning.lessons
        assert (one, asked_first, asked_second) == ("e0", first, second)
        assert prompt == again >= len(WORDS.split())
        assert (cached, then_cached) == (0, 16)


@STREAMED
async def test_an_engine_that_tells_nothing_of_its_cache_teaches_nothing(stream: bool, two: list[EchoEngine]) -> None:
    async with among(two) as model:
        learning = taught(model)
        await text(await model.respond(asked(stream=stream)), stream=stream)
        assert learning.lessons == []


@pytest.mark.parametrize("fault", ["500", "422"])
async def test_an_error_teaches_nothing(fault: str, two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault=fault, prefix_cache_tokens=4096)
    async with among(two) as model:
        learning = taught(model)
        assert (await model.respond(asked())).status == int(fault)
        assert learning.lessons == []


async def test_the_engine_that_answered_is_the_one_that_is_learned_of(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(prefix_cache_tokens=4096)
    two[0].configure(fault="500")
    async with among(two) as model:
        learning = taught(model)
        await text(await model.respond(asked()), stream=True)
        assert [lesson[0] for lesson in learning.lessons] == ["e1"]


async def test_a_stream_that_went_on_elsewhere_teaches_nothing(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(prefix_cache_tokens=4096)
    two[0].configure(fault="cut", after=5)
    async with among(two) as model:
        learning = taught(model)
        request = asked()
        assert await text(await model.respond(request), stream=True) == WORDS
        assert request.route.resumes == 1
        assert learning.lessons == []  # the answer so far was a part of its prompt


async def test_a_whole_answer_of_another_form_teaches_nothing(two: list[EchoEngine]) -> None:
    two[0].configure(prefix_cache_tokens=4096)
    async with among(two) as model:
        learning = taught(model)
        body = json.dumps({"model": MODEL, "prompt": "one two"}).encode()
        answer = await told(await model.respond(OpenAIRequest("/tokenize", body, MODEL, stream=False)))
        assert answer["count"] == 2
        assert learning.lessons == []
