"""Real engines that die and servers that are told to stop, in the middle of an official client's stream."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import openai
import pytest

from tests.clients.asking import COUNT, STORY
from tests.clients.served import Served, below, is_alive, serving_kind
from tests.conftest import DEMO_MODEL
from tests.faults.looking import count
from tests.waiting import eventually

pytestmark = pytest.mark.engine

FOREVER: Any = {"max_tokens": 1000, "extra_body": {"ignore_eos": True}}
RESTART_SECONDS = 180.0


def killed_in_a_stream(served: Served) -> None:
    """Kill the engine under a stream; the client sees an error, the engine comes back, and nothing of it is left."""
    victim = served.process()
    family = below(victim)
    restarts = count(served.server, "engine_restarts_total", model=served.model)
    with served.openai() as client:
        with client.chat.completions.create(model=served.model, messages=STORY, stream=True, **FOREVER) as stream:
            chunks = iter(stream)
            for _ in range(5):
                next(chunks)
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(openai.APIError) as raised:
                list(chunks)
        assert raised.value.code == "engine_error"
        assert "engine" in raised.value.message
        eventually(lambda: not any(map(is_alive, family)), what="the end of the engine's processes")
        eventually(lambda: served.state() != "READY", what="the news")
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model=served.model, messages=COUNT, max_tokens=2)
        assert refused.value.status_code == 503
        eventually(lambda: served.state() == "READY", seconds=RESTART_SECONDS, what="the engine's return")
        answer = client.chat.completions.create(model=served.model, messages=COUNT, max_tokens=2)
        assert answer.choices[0].message.content
    assert served.process() not in family
    assert count(served.server, "engine_restarts_total", model=served.model) == restarts + 1


def test_llamacpp_that_is_killed_in_a_stream_comes_back() -> None:
    with serving_kind("llamacpp", DEMO_MODEL) as served:
        killed_in_a_stream(served)


def test_vllm_that_is_killed_in_a_stream_comes_back_without_an_orphan(vllm: Served) -> None:
    killed_in_a_stream(vllm)


@pytest.mark.parametrize("kind", ["llamacpp", "vllm"])
def test_a_stream_under_way_is_finished_before_the_server_exits(kind: str) -> None:
    with serving_kind(kind, DEMO_MODEL) as served, served.openai() as client:
        family = below(served.server.pid)
        asked: Any = {"model": served.model, "messages": STORY, "max_tokens": 150, "extra_body": {"ignore_eos": True}}
        with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = iter(stream)
            first = next(chunks)
            served.server.process.send_signal(signal.SIGTERM)
            *rest, last = chunks
        assert first.choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in rest][-1] == "length"
        assert last.usage is not None
        assert last.usage.completion_tokens == 150
        assert served.server.stop() == 0
        eventually(lambda: not any(map(is_alive, family)), what="the end of every process")


async def test_requests_over_the_engines_slots_wait_and_are_served(llamacpp: Served) -> None:
    async with llamacpp.openai_async() as client:
        asked: Any = {"model": llamacpp.model, "messages": COUNT, "max_tokens": 8, "extra_body": {"ignore_eos": True}}
        answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(24)))
    assert {answer.usage.completion_tokens for answer in answers if answer.usage} == {8}
