"""The real `trtllm-serve`: what its stand-in promises of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from backends.engine.load import METRICS_PATHS, read_load
from backends.errors import UnsupportedOperation
from tests.backends.running import Engine, demo, running
from tests.clients.asking import COUNT, PERSON, PERSON_SCHEMA

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

CHAT = "/v1/chat/completions"
START_SECONDS = 1500.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running(demo("tensorrtllm"), seconds=START_SECONDS) as engine:
        yield engine


async def test_it_takes_a_request_with_fields_that_it_does_not_know(engine: Engine) -> None:
    answer = await engine.answer(CHAT, messages=COUNT, max_completion_tokens=5, store=True, parallel_tool_calls=True)
    assert answer["usage"]["completion_tokens"] == 5


async def test_usage_comes_once_at_the_end_of_its_streams(engine: Engine) -> None:
    for path, asked in ((CHAT, {"messages": COUNT}), ("/v1/completions", {"prompt": "One, two,"})):
        chunks = await engine.chunks(path, **asked, max_tokens=5)
        assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 5


async def test_its_answer_is_as_long_as_the_context_lets_it_be(engine: Engine) -> None:
    answer = await engine.answer("/v1/completions", prompt="One, two,", ignore_eos=True)
    assert answer["usage"]["completion_tokens"] > 1900


async def test_its_answer_follows_a_schema(engine: Engine) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON_SCHEMA}}
    answer = await engine.answer(CHAT, messages=PERSON, response_format=schema, max_tokens=200)
    assert list(json.loads(answer["choices"][0]["message"]["content"])) == ["name", "age"]


async def test_it_refuses_a_wrong_request_with_a_status(engine: Engine) -> None:
    status, body = await engine.ask(CHAT, messages=5)
    assert (status, bool(body)) == (400, True)
    with pytest.raises(UnsupportedOperation):
        await engine.ask("/v1/completions", prompt="One,", logprobs=1)


async def test_it_tells_its_load(engine: Engine) -> None:
    await engine.answer(CHAT, messages=COUNT, max_tokens=2)
    status, text = await engine.get(METRICS_PATHS["tensorrtllm"])
    assert status == 200
    assert read_load("tensorrtllm", text.encode()) is not None
