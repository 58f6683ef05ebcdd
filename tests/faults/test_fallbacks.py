"""Aliases and fallbacks in front of engines that fail: who answers, what the client is told, what is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.faults.looking import at_rest, count, engine_of
from tests.faults.talking import ask, asking, question
from tests.servers import Tritium
from tests.waiting import eventually

Start = Callable[..., Tritium]


def named(**parameters: str) -> str:
    """Lines of a config.pbtxt."""
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )


def with_fallback(fault: dict[str, Any], **parameters: str) -> dict[str, dict[str, Any]]:
    """A model with this fault, and one that stands in for it."""
    return {"echo": {**fault, "config": named(fallbacks="spare", **parameters)}, "spare": {}}


@pytest.mark.parametrize(
    ("fault", "stream"),
    [
        *((fault, stream) for fault in ("429", "503", "refuse") for stream in (True, False)),
        # Only a stream is looked after for its first token.
        ("hang-before-first-token", True),
        ("hang-before-head", True),
    ],
)
async def test_another_model_answers_where_one_fails_before_its_first_byte(
    echo_server: Start, fault: str, stream: bool
) -> None:
    server = echo_server("--first-token-timeout", "0.5", models=with_fallback({"fault": fault}))
    answer, body = await ask(server.url, question(stream=stream))
    assert answer.status == 200, body
    assert answer.headers["x-tritium-model"] == "spare"
    assert b'"model":"spare"' in body
    assert b"three" in body
    at_rest(server)
    assert count(server, "fallbacks_total", model="echo", to="spare") == 1
    assert count(server, "requests_total", model="spare", status="200") == 1


async def test_a_model_that_is_not_ready_has_a_fallback(echo_server: Start) -> None:
    models = with_fallback({"start_error": "no weights here"})
    server = echo_server(models=models)
    answer, body = await ask(server.url, question())
    assert (answer.status, answer.headers["x-tritium-model"]) == (200, "spare"), body


async def test_replicas_that_are_to_come_are_not_waited_for_where_there_is_a_fallback(echo_server: Start) -> None:
    config = named(fallbacks="spare") + "\ninstance_group [{ count: 2 }]"
    models = {"echo": {"start_delay_ms": 600_000, "config": config}, "spare": {}}
    server = echo_server(models=models, is_awaited=False)
    eventually(lambda: "spare: READY" in server.output())
    async with asyncio.timeout(10):
        answer, body = await ask(server.url, question())
    assert (answer.status, answer.headers["x-tritium-model"]) == (200, "spare"), body


async def test_a_full_queue_is_a_cause_only_where_it_is_listed(echo_server: Start) -> None:
    config = named(fallbacks="spare", fallback_on="overloaded")
    server = echo_server("--max-queue-size", "0", models={"echo": {"slots": 1, "config": config}, "spare": {}})
    async with asking(server.url, question(stream=True, echo={"ttft_ms": 60_000})):
        with engine_of(server) as engine:
            await engine.holds(1)
        answer, body = await ask(server.url, question())
        assert (answer.status, answer.headers["x-tritium-model"]) == (200, "spare"), body


async def test_what_is_not_listed_is_the_answer(echo_server: Start) -> None:
    server = echo_server(models=with_fallback({"fault": "500"}, fallback_on="429"))
    answer, _ = await ask(server.url, question())
    assert answer.status == 500
    assert "x-tritium-model" not in answer.headers
    assert count(server, "fallbacks_total") == 0


async def test_a_wrong_request_is_not_tried_elsewhere(echo_server: Start) -> None:
    server = echo_server(models=with_fallback({"fault": "400"}))
    answer, _ = await ask(server.url, question())
    assert answer.status == 400


async def test_after_the_first_byte_there_is_no_fallback(echo_server: Start) -> None:
    server = echo_server(models=with_fallback({"fault": "cut", "after": 2}))
    answer, body = await ask(server.url, question(stream=True))
    assert answer.status == 200
    assert b'"error"' in body
    assert b"spare" not in body


async def test_where_every_model_fails_the_last_one_says_so(echo_server: Start) -> None:
    models = {
        "echo": {"fault": "503", "config": named(fallbacks="second, third")},
        "second": {"fault": "502"},
        "third": {"fault": "429"},
    }
    server = echo_server(models=models)
    answer, _ = await ask(server.url, question())
    assert answer.status == 429
    assert count(server, "fallbacks_total") == 2


async def test_a_fallback_that_cannot_do_the_same_is_passed_over(echo_server: Start) -> None:
    models = {"echo": {"fault": "503", "config": named(fallbacks="nowhere, spare")}, "spare": {}}
    server = echo_server(models=models)
    answer, body = await ask(server.url, question())
    assert (answer.status, answer.headers["x-tritium-model"]) == (200, "spare"), body


async def test_only_the_name_is_changed_on_the_way_to_the_engine(echo_server: Start) -> None:
    server = echo_server(models={"echo": {"config": named(aliases="gpt-4o, default")}})
    asked = question(model="gpt-4o", words="\u00e9  a", temperature=1.50)
    answer, body = await ask(server.url, asked)
    assert (answer.status, answer.headers["x-tritium-model"]) == (200, "echo")
    assert json.loads(body)["model"] == "echo"
    with engine_of(server) as engine:
        last = engine.stats()["last"]
    assert json.loads(last["body"]) == {**asked, "model": "echo"}
    at_rest(server)
    assert count(server, "requests_total", model="echo") == 1


def test_the_openai_client_asks_by_an_alias(echo_server: Start) -> None:
    server = echo_server("--workers", "2", models={"echo": {"config": named(aliases="gpt-4o, default")}})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        (model,) = client.models.list().data
        assert model.model_dump()["aliases"] == ["gpt-4o", "default"]
        assert client.models.retrieve("gpt-4o").id == "echo"
        for name in ("gpt-4o", "default", "echo"):
            messages = [{"role": "user", "content": "one two"}]
            whole = client.chat.completions.create(model=name, messages=messages)  # type: ignore[call-overload]
            assert (whole.model, whole.choices[0].message.content) == ("echo", "one two")
            with client.chat.completions.create(model=name, messages=messages, stream=True) as stream:  # type: ignore[call-overload]
                assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one two"


def test_a_clash_of_names_fails_the_later_model(echo_server: Start) -> None:
    models = {"first": {"config": named(aliases="default")}, "second": {"config": named(aliases="default")}}
    server = echo_server(models=models)
    assert "'default' is one of the model 'first' already" in server.output()
