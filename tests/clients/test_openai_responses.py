"""Responses through OpenAI's client on real engines."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.clients.asking import CITY, PERSON_SCHEMA, RESPONSES_TOOL
from tests.clients.served import GENERATED, Served
from tests.waiting import eventually

pytestmark = pytest.mark.engine

QUESTION = "What is the weather in Paris?"
ENDLESS: dict[str, Any] = {"extra_body": {"ignore_eos": True}}
PARTS = ("response.output_text.", "response.content_part.")


class Person(BaseModel):
    name: str
    age: int


def test_a_response_is_whole(served: Served, client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=served.model, input="Name three colours.", instructions="Be brief.", max_output_tokens=6, temperature=0
    )
    assert answer.object == "response"
    assert answer.model == served.model
    assert answer.output_text
    assert answer.instructions == "Be brief."
    assert answer.max_output_tokens == 6
    assert answer.temperature == 0
    assert answer.parallel_tool_calls is True
    assert answer.tools == []
    assert answer.error is None
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    assert answer.usage.total_tokens == answer.usage.input_tokens + 6


def test_a_response_that_its_limit_cut_is_incomplete(served: Served, client: openai.OpenAI) -> None:
    asked: Any = {"model": served.model, "input": "Count to a hundred.", "max_output_tokens": 5, **ENDLESS}
    answer = client.responses.create(**asked)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    with client.responses.create(**asked, stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "incomplete"


def test_events_are_numbered_and_placed(served: Served, client: openai.OpenAI) -> None:
    before = served.metric(GENERATED[served.kind])
    asked: Any = {"model": served.model, "input": "Count to a hundred.", "max_output_tokens": 7, **ENDLESS}
    with client.responses.create(**asked, stream=True) as stream:
        events: list[Any] = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    placed = [event for event in events if event.type.startswith((*PARTS, "response.output_item."))]
    assert {event.output_index for event in placed} == {0}
    assert {event.content_index for event in placed if event.type.startswith(PARTS)} == {0}
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert text == final.output_text == final.output[0].content[0].text
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.id}
    assert final.usage.output_tokens == 7
    eventually(lambda: served.metric(GENERATED[served.kind]) == before + 7, what="the engine's count")


def test_the_helper_streams_a_parsed_answer(served: Served, client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=served.model, input="Invent a person.", text_format=Person, max_output_tokens=200, temperature=0
    ) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert all(after.startswith(before) for before, after in pairwise(snapshots))
    assert snapshots[-1] == final.output_text
    assert isinstance(final.output_parsed, Person)


async def test_an_asynchronous_helper_streams(served: Served) -> None:
    async with (
        served.openai_async() as client,
        client.responses.stream(model=served.model, input="Count to ten.", max_output_tokens=6) as stream,
    ):
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas)


def test_a_response_follows_its_schema(served: Served, client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=served.model,
        input="Invent a person.",
        text={"format": {"type": "json_schema", "name": "person", "strict": True, "schema": PERSON_SCHEMA}},
        max_output_tokens=150,
        temperature=0,
    )
    assert answer.status == "completed"
    assert list(json.loads(answer.output_text)) == ["name", "age"]


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_tool_that_is_demanded_is_called(served: Served, client: openai.OpenAI, tool_choice: Any) -> None:
    asked: Any = {"model": served.model, "input": QUESTION, "tools": [RESPONSES_TOOL], "tool_choice": tool_choice}
    answer = client.responses.create(**asked, max_output_tokens=200, temperature=0)
    (item,) = answer.output
    assert item.type == "function_call"
    assert (item.name, item.status) == ("get_weather", "completed")
    assert list(json.loads(item.arguments)) == list(CITY["properties"])
    assert item.call_id


def test_a_tool_call_streams_to_its_end(served: Served, client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=served.model,
        input=QUESTION,
        tools=[RESPONSES_TOOL],
        tool_choice="required",
        max_output_tokens=200,
        temperature=0,
    ) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == done.arguments
    (item,) = final.output
    assert item.type == "function_call"
    assert (item.name, item.id) == ("get_weather", done.item_id)
    assert list(json.loads(item.arguments)) == ["city"]
    assert not any(event.type.startswith("response.output_text") for event in events)


def test_the_result_of_a_tool_goes_into_the_next_turn(served: Served, client: openai.OpenAI) -> None:
    call: Any = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Paris"}'}
    turns: Any = [
        {"role": "user", "content": QUESTION},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny, 21 degrees"},
    ]
    answer = client.responses.create(model=served.model, input=turns, tools=[RESPONSES_TOOL], max_output_tokens=8)
    assert answer.output_text


def test_an_engine_that_keeps_responses_gives_them_back(vllm: Served) -> None:
    with vllm.openai() as client:
        made = client.responses.create(model=vllm.model, input="Say hello.", max_output_tokens=8, store=True)
        kept = client.responses.retrieve(made.id)
        assert (kept.id, kept.output_text) == (made.id, made.output_text)
        after = client.responses.create(
            model=vllm.model, input="Again.", previous_response_id=made.id, max_output_tokens=4
        )
        assert after.usage is not None
        assert made.usage is not None
        assert after.usage.input_tokens > made.usage.total_tokens


def test_a_response_in_the_background_can_be_cancelled(vllm: Served) -> None:
    with vllm.openai() as client:
        made = client.responses.create(
            model=vllm.model,
            input="Write a long story.",
            background=True,
            store=True,
            max_output_tokens=1900,
            extra_body={"ignore_eos": True},
        )
        assert made.status in ("queued", "in_progress")
        eventually(lambda: vllm.running() == 1)
        assert client.responses.cancel(made.id).status == "cancelled"
        eventually(lambda: vllm.running() == 0, seconds=1.0)
        assert client.responses.retrieve(made.id).status == "cancelled"


def test_an_engine_that_keeps_none_refuses_what_needs_it(llamacpp: Served) -> None:
    with llamacpp.openai() as client:
        for fields in ({"background": True}, {"previous_response_id": "resp_1"}):
            with pytest.raises(openai.BadRequestError, match=r"llama\.cpp"):
                client.responses.create(model=llamacpp.model, input="Hi", **fields)
        made = client.responses.create(model=llamacpp.model, input="Hi", max_output_tokens=2)
        for find in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
            with pytest.raises(openai.NotFoundError, match=made.id):
                find(made.id)
