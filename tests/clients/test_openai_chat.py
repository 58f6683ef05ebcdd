"""Chat through OpenAI's client on real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.clients.asking import COUNT, OTHER_TOOL, PERSON, PERSON_SCHEMA, TOOL, WEATHER
from tests.clients.served import GENERATED, Served
from tests.faults.looking import at_rest, count
from tests.waiting import eventually

pytestmark = pytest.mark.engine

BY_NAME: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def served(completer: Served) -> Served:
    return completer


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def writer(generator: Served) -> Iterator[openai.OpenAI]:
    with generator.openai() as client:
        yield client


def test_an_answer_is_whole(generator: Served, writer: openai.OpenAI) -> None:
    answer = writer.chat.completions.create(model=generator.model, messages=COUNT, max_tokens=6, temperature=0)
    (choice,) = answer.choices
    assert (answer.object, answer.model) == ("chat.completion", generator.model)
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens == 6
    assert usage.total_tokens == usage.prompt_tokens + 6


def test_a_stream_is_a_role_then_text_then_a_reason(generator: Served, writer: openai.OpenAI) -> None:
    asked: Any = {"model": generator.model, "messages": COUNT, "max_tokens": 6, "temperature": 0}
    with writer.chat.completions.create(**asked, stream=True) as stream:
        chunks = list(stream)
    first, *between, last = [chunk.choices[0] for chunk in chunks]
    assert first.delta.role == "assistant"
    assert not any(choice.delta.role for choice in between if choice is not first)
    assert [choice.finish_reason for choice in (first, *between)] == [None] * (len(chunks) - 1)
    assert last.finish_reason == "length"
    assert {chunk.model for chunk in chunks} == {generator.model}
    assert len({chunk.id for chunk in chunks}) == 1
    whole = writer.chat.completions.create(**asked).choices[0].message.content
    assert "".join(choice.delta.content or "" for choice in (first, *between, last)) == whole


async def test_an_asynchronous_client_streams(generator: Served) -> None:
    async with generator.openai_async() as client:
        stream = await client.chat.completions.create(
            model=generator.model,
            messages=COUNT,
            max_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_usage_of_a_stream_is_what_the_engine_counted(served: Served, client: openai.OpenAI) -> None:
    def counted() -> tuple[float, float, float]:
        at_rest(served.server)
        ours = [count(served.server, f"{side}_tokens_total", model=served.model) for side in ("prompt", "completion")]
        return served.metric(GENERATED[served.kind]), ours[0], ours[1]

    prompt_tokens = served.prompt_tokens(messages=COUNT)
    before = counted()
    with client.chat.completions.create(
        model=served.model, messages=COUNT, max_tokens=23, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.prompt_tokens == prompt_tokens
    after = tuple(number + usage.completion_tokens for number in before)
    eventually(lambda: counted()[0] == after[0], what="the engine's count of generated tokens")
    assert counted() == (after[0], before[1] + prompt_tokens, after[2])


def test_a_stream_without_usage_asked_for_has_none(generator: Served, writer: openai.OpenAI) -> None:
    with writer.chat.completions.create(model=generator.model, messages=COUNT, max_tokens=3, stream=True) as stream:
        chunks = list(stream)
    assert not any(chunk.usage for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


@pytest.mark.parametrize("is_stream", [False, True])
def test_two_choices_come_each_whole(served: Served, client: openai.OpenAI, is_stream: bool) -> None:
    asked: Any = {"model": served.model, "messages": COUNT, "max_tokens": 4, "n": 2, "extra_body": {"ignore_eos": True}}
    if is_stream:
        with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
        ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        roles = [choice.index for chunk in chunks for choice in chunk.choices if choice.delta.role]
        assert sorted(roles) == sorted(ends) == [0, 1]
        usage = chunks[-1].usage
    else:
        answer = client.chat.completions.create(**asked)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert all(choice.message.content for choice in answer.choices)
        usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens == 8
    assert usage.prompt_tokens == served.prompt_tokens(messages=COUNT)


@pytest.mark.parametrize("is_stream", [False, True])
def test_logprobs_belong_to_their_tokens(served: Served, client: openai.OpenAI, is_stream: bool) -> None:
    asked: Any = {"model": served.model, "messages": COUNT, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    if is_stream:
        with client.chat.completions.create(**asked, temperature=0, stream=True) as stream:
            choices: list[Any] = [chunk.choices[0] for chunk in stream]
        text = "".join(choice.delta.content or "" for choice in choices)
    else:
        choices = list(client.chat.completions.create(**asked, temperature=0).choices)
        text = choices[0].message.content
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert "".join(token.token for token in tokens) == text
    assert len(tokens) == 4
    for token in tokens:
        assert len(token.top_logprobs) == 2
        assert max(top.logprob for top in token.top_logprobs) == pytest.approx(token.logprob, abs=1e-4)
        assert -20 < token.logprob <= 0


def test_a_stop_sequence_ends_the_answer_before_it(served: Served, client: openai.OpenAI) -> None:
    turns: Any = [{"role": "user", "content": "Repeat after me: one two three four five six seven"}]
    answer = client.chat.completions.create(
        model=served.model, messages=turns, stop=[" three", "never"], max_tokens=40, temperature=0
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert "three" not in answer.choices[0].message.content


def test_a_seed_repeats_an_answer(served: Served, client: openai.OpenAI) -> None:
    asked: Any = {"model": served.model, "messages": PERSON, "max_tokens": 12, "temperature": 1.5}
    said = [client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (7, 7, 8)]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("tool_choice", ["required", BY_NAME])
def test_a_tool_that_is_demanded_is_called(served: Served, client: openai.OpenAI, tool_choice: Any) -> None:
    answer = client.chat.completions.create(
        model=served.model, messages=WEATHER, tools=[TOOL], tool_choice=tool_choice, max_tokens=200, temperature=0
    )
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == ("tool_calls" if tool_choice == "required" else "stop")
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert list(json.loads(call.function.arguments)) == ["city"]
    assert call.id


@pytest.mark.parametrize("tool_choice", ["required", BY_NAME])
def test_a_tool_that_is_demanded_is_called_in_a_stream(served: Served, client: openai.OpenAI, tool_choice: Any) -> None:
    with client.chat.completions.stream(
        model=served.model, messages=WEATHER, tools=[TOOL], tool_choice=tool_choice, max_tokens=200, temperature=0
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    (done,) = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert done.name == "get_weather"
    assert done.parsed_arguments == json.loads(done.arguments)
    (call,) = final.choices[0].message.tool_calls or []
    assert list(json.loads(call.function.arguments)) == ["city"]
    assert not final.choices[0].message.content


def test_one_of_several_tools_is_called(served: Served, client: openai.OpenAI) -> None:
    tools = [OTHER_TOOL, TOOL]
    answer = client.chat.completions.create(
        model=served.model, messages=WEATHER, tools=tools, tool_choice=BY_NAME, max_tokens=200, temperature=0
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"


@pytest.mark.parametrize("tool_choice", ["auto", "none"])
def test_a_tool_that_is_left_to_the_model_ends_in_text_or_in_a_call(
    served: Served, client: openai.OpenAI, tool_choice: Any
) -> None:
    answer = client.chat.completions.create(
        model=served.model, messages=WEATHER, tools=[TOOL], tool_choice=tool_choice, max_tokens=20, temperature=0
    )
    message = answer.choices[0].message
    assert message.content or message.tool_calls
    assert tool_choice == "auto" or not message.tool_calls


def test_the_result_of_a_tool_goes_into_the_next_turn(served: Served, client: openai.OpenAI) -> None:
    call: Any = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }
    turns: list[Any] = [
        *WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees"},
    ]
    with_result = client.chat.completions.create(model=served.model, messages=turns, tools=[TOOL], max_tokens=8)
    without = client.chat.completions.create(model=served.model, messages=WEATHER, tools=[TOOL], max_tokens=8)
    assert with_result.choices[0].message.content
    assert with_result.usage is not None
    assert without.usage is not None
    assert with_result.usage.prompt_tokens > without.usage.prompt_tokens + 10


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_follows_its_schema(served: Served, client: openai.OpenAI, is_stream: bool) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON_SCHEMA}}
    asked: Any = {
        "model": served.model,
        "messages": PERSON,
        "response_format": schema,
        "max_tokens": 150,
        "temperature": 0,
    }
    if is_stream:
        with client.chat.completions.create(**asked, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content or ""
    person = json.loads(text)
    assert list(person) == ["name", "age"]
    assert 0 <= person["age"] <= 120


def test_an_answer_is_parsed_into_a_model(served: Served, client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=served.model, messages=PERSON, response_format=Person, max_tokens=200, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"stop": ["x"]}, {"logprobs": True}, {"tools": [TOOL], "tool_choice": "required"}],
)
def test_what_an_engine_cannot_do_is_refused_by_name(transformers: Served, fields: Any) -> None:
    with transformers.openai() as client, pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=transformers.model, messages=COUNT, max_tokens=4, **fields)
    assert raised.value.code == "unsupported_operation"
    assert raised.value.param in fields
