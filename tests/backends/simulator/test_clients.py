"""The official clients are the judges: they read what the engine says as they read their own servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.engines import EchoEngine, echo_engine

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    """What structured output is parsed into."""

    name: str
    age: int
    nick: str | None


@pytest.fixture(scope="module")
def running() -> Iterator[EchoEngine]:
    """On a port: these clients come with HTTP clients of their own."""
    with echo_engine(tcp=True) as engine:
        yield engine


@pytest.fixture
async def ai(engine: EchoEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
async def claude(engine: EchoEngine) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=engine.url, api_key="none", max_retries=0) as found:
        yield found


async def test_openai_chats_whole_and_streamed(ai: openai.AsyncOpenAI) -> None:
    whole = await ai.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello world"}])
    assert whole.choices[0].message.content == "hello world"
    stream = await ai.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": "hello world"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello world"
    assert chunks[-1].usage == whole.usage


async def test_openai_gathers_a_streamed_tool_call(ai: openai.AsyncOpenAI) -> None:
    async with ai.chat.completions.stream(
        model="echo",
        messages=[{"role": "user", "content": 'call tool weather {"city": "Rome"} call tool weather {"city": "Oslo"}'}],
        tools=[WEATHER],
    ) as stream:
        choice = (await stream.get_final_completion()).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [call.function.arguments for call in choice.message.tool_calls or []] == [
        '{"city": "Rome"}',
        '{"city": "Oslo"}',
    ]


async def test_openai_parses_structured_output(ai: openai.AsyncOpenAI) -> None:
    completion = await ai.chat.completions.parse(
        model="echo", messages=[{"role": "user", "content": "who?"}], response_format=Person
    )
    assert completion.choices[0].message.parsed == Person(name="", age=0, nick="")


async def test_openai_reads_completions_and_models(ai: openai.AsyncOpenAI) -> None:
    whole = await ai.completions.create(model="echo", prompt="hello world", logprobs=1)
    assert whole.choices[0].text == "hello world"
    assert [model.id async for model in ai.models.list()] == ["echo"]


async def test_openai_unpacks_base64_embeddings(ai: openai.AsyncOpenAI) -> None:
    packed = await ai.embeddings.create(model="echo", input=["some text"])
    floats = await ai.embeddings.create(model="echo", input=["some text"], encoding_format="float")
    assert packed.data[0].embedding == floats.data[0].embedding


async def test_openai_follows_a_streamed_response(ai: openai.AsyncOpenAI) -> None:
    async with ai.responses.stream(model="echo", input="hello world") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "hello world"
    assert (await ai.responses.retrieve(final.id)).output_text == "hello world"
    await ai.responses.delete(final.id)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.retrieve(final.id)


async def test_openai_gathers_a_response_that_calls_tools(ai: openai.AsyncOpenAI) -> None:
    async with ai.responses.stream(
        model="echo",
        input='call tool weather {"city": "Rome"} call tool weather {"city": "Oslo"}',
        tools=[{"type": "function", "name": "weather", "strict": False, "parameters": {"type": "object"}}],
    ) as stream:
        final = await stream.get_final_response()
    calls = [item.arguments for item in final.output if item.type == "function_call"]
    assert calls == ['{"city": "Rome"}', '{"city": "Oslo"}']


async def test_openai_raises_what_the_engine_answers(ai: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await ai.chat.completions.create(model="none", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.RateLimitError):
        await ai.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "x"}], extra_body={"echo": {"fault": "429"}}
        )
    stream = await ai.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": "a b c"}],
        stream=True,
        extra_body={"echo": {"fault": "error-event"}},
    )
    with pytest.raises(openai.APIError, match="error-event"):
        async for _ in stream:
            pass


async def test_anthropic_reads_messages_whole_and_streamed(claude: anthropic.AsyncAnthropic) -> None:
    whole = await claude.messages.create(
        model="echo", max_tokens=20, system="be brief", messages=[{"role": "user", "content": "hello world"}]
    )
    assert whole.content[0].type == "text"
    assert whole.content[0].text == "hello world"
    async with claude.messages.stream(
        model="echo", max_tokens=20, messages=[{"role": "user", "content": "hello world"}]
    ) as stream:
        assert [text async for text in stream.text_stream] == ["hello", " world"]
        assert (await stream.get_final_message()).stop_reason == "end_turn"
    counted = await claude.messages.count_tokens(
        model="echo", system="be brief", messages=[{"role": "user", "content": "hello world"}]
    )
    assert counted.input_tokens == whole.usage.input_tokens


async def test_anthropic_gathers_tool_use(claude: anthropic.AsyncAnthropic) -> None:
    async with claude.messages.stream(
        model="echo",
        max_tokens=50,
        messages=[{"role": "user", "content": 'call tool weather {"city": "Rome"}'}],
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": "weather"},
    ) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert message.content[0].type == "tool_use"
    assert message.content[0].input == {"city": "Rome"}
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(model="none", max_tokens=1, messages=[{"role": "user", "content": "x"}])
