"""What clients see of every way in which an engine fails, before the first byte and after it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.engines import EchoEngine
from tests.faults.looking import at_rest, complaints, count, engine_of
from tests.faults.talking import (
    CHAT,
    FAMILIES,
    MESSAGES,
    RESPONSES,
    ask,
    asking,
    data_of,
    error_of,
    events_of,
    question,
)
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

NAMED = (RESPONSES, MESSAGES)
BREAKS = ("cut", "eof")
ENDS = {MESSAGES: b"event: message_stop", RESPONSES: b"event: response.completed"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    repository = echo_repository(tmp_path_factory.mktemp("models"), {"echo": {}, "mortal": {}})
    with serving(repository, "--max-restarts", "100", "--health-interval", "0.2") as tritium:
        yield tritium
        assert [line for line in complaints(tritium) if "mortal: RESTARTING" not in line] == []


@pytest.fixture(autouse=True)
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        echo.reset()
        yield echo
        await echo.idle(seconds=1)
    at_rest(server)


def failing(path: str = CHAT, fault: str = "cut", *, stream: bool = True, **fields: Any) -> dict[str, Any]:
    return question(path, "one two three four", stream=stream, echo={"fault": fault, "itl_ms": 1, **fields})


def check_broken_off(path: str, body: bytes, words: int) -> dict[str, Any]:
    """The stream has so many words, then exactly one error event, and nothing that says it is whole."""
    events = events_of(body)
    assert body.endswith(b"\n\n")
    assert events[-1].startswith(b"event: error\n" if path in NAMED else b"data: {"), events
    for event in events[:-1]:
        assert b'"error":{' not in event
        data_of(event)
    assert b"[DONE]" not in body
    assert not any(event.startswith(ENDS.get(path, b"data: [DONE]")) for event in events)
    for word in ("one", "two", "three", "four")[:words]:
        assert word.encode() in body
    return error_of(events[-1])


async def read(stream: AsyncIterable[Any], items: list[Any]) -> None:
    """Add what a client's stream brings, until it raises."""
    async for item in stream:
        items.append(item)  # noqa: PERF401  # what came before the end counts


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("path", FAMILIES)
async def test_a_stream_that_breaks_off_ends_with_one_error_event(server: Tritium, path: str, fault: str) -> None:
    answer, body = await ask(server.url, failing(path, fault, after=2), path)
    assert answer.status == 200
    error = check_broken_off(path, body, words=2)
    assert error["type"] == "server_error"
    assert error["code"] in ("engine_error", "engine_protocol_error")


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("path", FAMILIES)
async def test_a_stream_that_breaks_before_its_first_event_is_a_502(server: Tritium, path: str, fault: str) -> None:
    answer, body = await ask(server.url, failing(path, fault, after=0), path)
    if path == RESPONSES and answer.status == 200:
        check_broken_off(path, body, words=0)  # its first events come before the first token
        return
    assert answer.status == 502
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["type"] == "server_error"


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("path", FAMILIES)
async def test_a_whole_answer_that_breaks_off_is_a_502(server: Tritium, path: str, fault: str) -> None:
    answer, body = await ask(server.url, failing(path, fault, stream=False), path)
    assert answer.status == 502
    assert "closed the connection before its answer was complete" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("path", FAMILIES)
async def test_the_engines_own_error_event_is_the_last_word(server: Tritium, path: str, after: int) -> None:
    before = count(server, "errors_total", kind="upstream_error")
    _, body = await ask(server.url, failing(path, "error-event", after=after), path)
    events = events_of(body)
    if path == MESSAGES and events[-1] == b"data: [DONE]":
        events.pop()  # of no meaning in this family: the event before it is the end
    assert b"error-event" in events[-1]
    assert sum(b'"error":{' in event for event in events) == 1
    at_rest(server)
    if path not in NAMED:
        assert count(server, "errors_total", kind="upstream_error") == before + 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", FAMILIES)
async def test_a_refused_connection_is_a_502(server: Tritium, path: str, stream: bool) -> None:
    answer, body = await ask(server.url, failing(path, "refuse", stream=stream), path)
    assert answer.status == 502
    assert json.loads(body)["error"]["code"] == "engine_error"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("500", 500, "The status 500 was asked for."),
        ("422", 422, "The status 422 was asked for."),
        ("flat-error", 400, "The fault 'flat-error' was asked for."),
        ("string-error", 400, "The fault 'string-error' was asked for."),
        ("text-error", 500, "Internal Server Error"),
    ],
)
@pytest.mark.parametrize("path", FAMILIES)
async def test_the_engines_error_passes_in_the_envelope(
    server: Tritium, path: str, fault: str, status: int, message: str, stream: bool
) -> None:
    answer, body = await ask(server.url, failing(path, fault, stream=stream), path)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] == message


@pytest.mark.parametrize("status", ["429", "503"])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_engines_retry_after_is_passed_on(server: Tritium, stream: bool, status: str) -> None:
    answer, _ = await ask(server.url, failing(fault=status, stream=stream, retry_after=7))
    assert (answer.status, answer.headers["retry-after"]) == (int(status), "7")


@pytest.mark.parametrize("fault", [*BREAKS, "error-event"])
async def test_the_openai_client_raises_in_mid_stream(server: Tritium, fault: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked = failing(CHAT, fault, after=2)
        stream = await client.chat.completions.create(
            model="echo", messages=asked["messages"], stream=True, extra_body={"echo": asked["echo"]}
        )
        chunks: list[Any] = []
        with pytest.raises(openai.APIError, match=r"engine|asked for"):
            await read(stream, chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"


@pytest.mark.parametrize("fault", BREAKS)
async def test_the_openai_client_raises_for_responses_in_mid_stream(server: Tritium, fault: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.responses.create(
            model="echo", input="one two three", stream=True, extra_body={"echo": {"fault": fault, "after": 2}}
        )
        with pytest.raises(openai.APIError, match="engine"):
            [event async for event in stream if event.type == "response.completed"]


@pytest.mark.parametrize("fault", [*BREAKS, "error-event"])
async def test_the_anthropic_client_raises_in_mid_stream(server: Tritium, fault: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        stream = await client.messages.create(
            model="echo",
            max_tokens=100,
            messages=[{"role": "user", "content": "one two three"}],
            stream=True,
            extra_body={"echo": {"fault": fault, "after": 2}},
        )
        events: list[Any] = []
        with pytest.raises(anthropic.APIError):
            await read(stream, events)
        seen = [event.type for event in events]
        assert "content_block_delta" in seen
        assert "message_stop" not in seen


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("500", openai.InternalServerError), ("429", openai.RateLimitError), ("422", openai.UnprocessableEntityError)],
)
async def test_the_openai_client_raises_by_status(
    server: Tritium, fault: str, kind: type[openai.APIStatusError]
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for stream in (True, False):
            with pytest.raises(kind, match=f"The status {fault} was asked for"):
                await client.chat.completions.create(
                    model="echo",
                    messages=[{"role": "user", "content": "a"}],
                    stream=stream,
                    extra_body={"echo": {"fault": fault}},
                )


async def test_broken_streams_are_counted_as_errors_with_the_tokens_they_had(server: Tritium) -> None:
    at_rest(server)
    before = [count(server, name) for name in ("errors_total", "requests_total", "client_disconnects_total")]
    for fault in BREAKS:
        await ask(server.url, failing(fault=fault, after=2))
    at_rest(server)
    after = [count(server, name) for name in ("errors_total", "requests_total", "client_disconnects_total")]
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [2, 2, 0]


@pytest.mark.parametrize("after", [-1, 2])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_dies_breaks_its_requests_and_comes_back(
    server: Tritium, stream: bool, after: int
) -> None:
    restarts = count(server, "engine_restarts_total", model="mortal")
    asked = {**failing(fault="exit", stream=stream, after=after), "model": "mortal"}
    if after < 0:
        del asked["echo"]["after"]
    answer, body = await ask(server.url, asked)
    if stream and after > 0:
        assert answer.status == 200
        check_broken_off(CHAT, body, words=2)
    else:
        assert answer.status in (502, 503)
        assert json.loads(body)["error"]["type"] in ("server_error", "service_unavailable_error")
    eventually(lambda: count(server, "engine_restarts_total", model="mortal") == restarts + 1)
    eventually(lambda: count(server, "model_ready", model="mortal") == 1)
    answer, body = await ask(server.url, question(model="mortal", stream=True))
    assert answer.status == 200
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_failure_of_one_stream_leaves_the_others_alone(server: Tritium, engine: EchoEngine) -> None:
    async with asking(server.url, question(words="w " * 30, stream=True, echo={"itl_ms": 10})) as other:
        await other.head()
        for fault in (*BREAKS, "refuse", "error-event", "500"):
            await ask(server.url, failing(fault=fault))
        assert (await other.rest()).endswith(b"data: [DONE]\n\n")
    await engine.idle()
