"""Anthropic's client on real engines."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.clients.asking import COUNT, MESSAGES_TOOL, STORY, WEATHER
from tests.clients.served import EMBEDDER, GENERATED, Served
from tests.waiting import eventually

pytestmark = pytest.mark.engine

GREEDY: Any = {"extra_body": {"temperature": 0}}


def test_a_message_is_whole(served: Served, claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model=served.model, messages=STORY, max_tokens=6, system="Be a poet.", **GREEDY)
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", served.model)
    (block,) = answer.content
    assert block.type == "text"
    assert block.text
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 6


def test_a_message_streams(served: Served, claude: anthropic.Anthropic) -> None:
    before = served.metric(GENERATED[served.kind])
    with claude.messages.stream(model=served.model, messages=COUNT, max_tokens=9, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    (block,) = final.content
    assert block.type == "text"
    assert block.text == text
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 9
    whole: Any = claude.messages.create(model=served.model, messages=COUNT, max_tokens=9, **GREEDY)
    assert whole.content[0].text == text
    eventually(lambda: served.metric(GENERATED[served.kind]) == before + 18, what="the engine's count")


def test_the_events_of_a_stream_come_in_anthropics_order(served: Served, claude: anthropic.Anthropic) -> None:
    with claude.messages.create(model=served.model, messages=COUNT, max_tokens=3, stream=True) as stream:
        kinds = [event.type for event in stream]
    assert list(dict.fromkeys(kinds)) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_an_asynchronous_client_streams(served: Served) -> None:
    async with served.anthropic_async() as client:
        async with client.messages.stream(model=served.model, messages=COUNT, max_tokens=5, **GREEDY) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        whole = await client.messages.create(model=served.model, messages=COUNT, max_tokens=5, **GREEDY)
    assert text
    assert whole.usage.output_tokens == 5


def test_tokens_are_counted_as_the_engine_counts_them(served: Served, claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model=served.model, messages=COUNT)
    usage = claude.messages.create(model=served.model, messages=COUNT, max_tokens=1).usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == served.post("/tokenize", messages=COUNT)["count"] == usage.input_tokens + cached


def test_a_stop_sequence_is_the_reason(served: Served, claude: anthropic.Anthropic) -> None:
    turns: Any = [{"role": "user", "content": "Repeat after me: one two three four five six seven"}]
    asked: Any = {"model": served.model, "messages": turns, "max_tokens": 40, "stop_sequences": [" three"], **GREEDY}
    answer = claude.messages.create(**asked)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " three")
    with claude.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", " three")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_that_is_demanded_is_used(vllm: Served, choice: Any) -> None:
    asked: Any = {"model": vllm.model, "messages": WEATHER, "tools": [MESSAGES_TOOL], "tool_choice": choice, **GREEDY}
    with vllm.anthropic() as client:
        (block,) = client.messages.create(**asked, max_tokens=200).content
        with client.messages.stream(**asked, max_tokens=200) as stream:
            (streamed,) = stream.get_final_message().content
    uses: tuple[Any, ...] = (block, streamed)
    assert [(use.type, use.name, list(use.input)) for use in uses] == [("tool_use", "get_weather", ["city"])] * 2


def test_a_tool_that_the_engine_cannot_be_held_to_is_refused(llamacpp: Served) -> None:
    with llamacpp.anthropic() as client, pytest.raises(anthropic.BadRequestError, match="held to a tool"):
        client.messages.create(
            model=llamacpp.model, messages=WEATHER, max_tokens=5, tools=[MESSAGES_TOOL], tool_choice={"type": "any"}
        )


def test_a_tool_that_is_left_to_the_model_ends_in_text_or_in_its_use(
    served: Served, claude: anthropic.Anthropic
) -> None:
    answer = claude.messages.create(model=served.model, messages=WEATHER, max_tokens=12, tools=[MESSAGES_TOOL])
    assert answer.content[0].type in ("text", "tool_use")


def test_errors_are_anthropics_kinds(vllm: Served) -> None:
    with vllm.anthropic() as client:
        with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
            client.messages.create(model="no-such-model", messages=COUNT, max_tokens=5)
        with pytest.raises(anthropic.BadRequestError, match="does not support messages"):
            client.messages.create(model=EMBEDDER, messages=COUNT, max_tokens=5)
        turns: Any = [{"role": "user", "content": "again " * 5000}]
        with pytest.raises(anthropic.BadRequestError, match=r"(?i)context"):
            client.messages.create(model=vllm.model, messages=turns, max_tokens=5)
