"""The real SGLang: its streams, its load, and how it goes on with an answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.engine.continuation import by_flag
from backends.engine.load import METRICS_PATHS, read_load
from tests.backends.continuing import goes_on_exactly
from tests.backends.running import Engine, demo, running
from tests.clients.asking import COUNT

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

CHAT = "/v1/chat/completions"
START_SECONDS = 1500.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running(demo("sglang"), seconds=START_SECONDS) as engine:
        yield engine


async def test_usage_comes_once_at_the_end_of_its_streams(engine: Engine) -> None:
    chunks = await engine.chunks(CHAT, messages=COUNT, max_tokens=5)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5


async def test_vllms_words_for_a_constraint_hold(engine: Engine) -> None:
    answer = await engine.answer(CHAT, messages=COUNT, max_tokens=5, guided_choice=["blue"])
    assert answer["choices"][0]["message"]["content"] == "blue"


async def test_it_goes_on_with_an_answer_begun_elsewhere(engine: Engine) -> None:
    await goes_on_exactly(engine, by_flag)


async def test_it_tells_its_load(engine: Engine) -> None:
    status, text = await engine.get(METRICS_PATHS["sglang"])
    assert status == 200
    assert read_load("sglang", text.encode()) is not None
