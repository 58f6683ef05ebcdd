"""Signs of life: comments while a stream is silent, whatever it waits for, and nothing that upsets a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.engines import EchoEngine
from tests.faults.looking import at_rest, complaints, count, engine_of
from tests.faults.talking import CHAT, FAMILIES, FOREVER, MESSAGES, RESPONSES, Answer, ask, asking, error_of, question
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

SECONDS = 0.12
COMMENT = b": keep-alive"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    models = {"echo": {}, "narrow": {"slots": 1}}
    with serving(
        echo_repository(tmp_path_factory.mktemp("models"), models), "--keepalive-seconds", str(SECONDS)
    ) as tritium:
        yield tritium
        assert complaints(tritium) == []


@pytest.fixture(autouse=True)
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        yield echo
        await echo.idle(seconds=1)
    at_rest(server)


async def signs(answer: Answer, wanted: int = 2) -> None:
    """So many comments come, and nothing else."""
    assert await answer.head() == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert "x-request-id" in answer.headers
    for _ in range(wanted):
        assert await answer.event() == COMMENT


async def test_comments_come_before_the_engines_head_in_every_family(server: Tritium) -> None:
    async def one(path: str) -> None:
        asked = question(path, stream=True, echo={"fault": "hang-before-head"})
        async with asking(server.url, asked, path) as answer:
            await signs(answer)

    await asyncio.gather(*map(one, FAMILIES))


async def test_comments_come_before_the_first_token_and_the_stream_is_whole_after_them(server: Tritium) -> None:
    async def one(path: str) -> None:
        asked = question(path, stream=True, echo={"ttft_ms": 3.5 * SECONDS * 1000})
        _, body = await ask(server.url, asked, path)
        events = body.split(b"\n\n")[:-1]
        assert 2 <= events.count(COMMENT) <= 3
        _, plain = await ask(server.url, question(path, stream=True), path)
        told = [event[:20] for event in events if event != COMMENT]
        assert told == [event[:20] for event in plain.split(b"\n\n")[:-1]]

    await asyncio.gather(*map(one, FAMILIES))


async def test_comments_come_between_tokens(server: Tritium) -> None:
    async with asking(server.url, question(stream=True, echo={"itl_ms": 600_000})) as answer:
        await answer.head()
        assert b'"assistant"' in await answer.event()
        assert b'"one"' in await answer.event()
        for _ in range(2):
            assert await answer.event() == COMMENT


async def test_comments_come_while_queued(server: Tritium) -> None:
    async with asking(server.url, question(model="narrow", echo=FOREVER)):
        eventually(lambda: count(server, "requests_in_flight", model="narrow") == 1)
        async with asking(server.url, question(model="narrow", stream=True)) as answer:
            await signs(answer)
            assert count(server, "queue_depth", model="narrow") == 1
    eventually(lambda: count(server, "requests_in_flight", model="narrow") == 0)


async def test_a_stream_that_is_not_silent_has_no_comments(server: Tritium) -> None:
    asked = question(words="w " * 30, stream=True, echo={"itl_ms": SECONDS * 1000 / 6})
    _, body = await ask(server.url, asked)
    assert COMMENT not in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_answer_in_one_piece_has_no_comments(server: Tritium) -> None:
    choices: tuple[dict[str, Any], ...] = ({}, {"stream": False})
    for fields in choices:
        answer, body = await ask(server.url, question(echo={"ttft_ms": 3 * SECONDS * 1000}, **fields))
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(body)


async def test_comments_stand_between_events_never_within_one(server: Tritium) -> None:
    asked = question(words="w " * 6, stream=True, echo={"fault": "split", "itl_ms": 1.5 * SECONDS * 1000})
    _, body = await ask(server.url, asked)
    events = body.split(b"\n\n")[:-1]
    assert events.count(COMMENT) >= 4
    for event in events:
        assert event in (COMMENT, b"data: [DONE]") or json.loads(event.removeprefix(b"data: "))


async def test_an_engine_that_fails_after_a_comment_fails_by_an_event(server: Tritium) -> None:
    async def one(path: str, fault: str) -> None:
        echo = {"fault": fault, "after": 1, "ttft_ms": 1.6 * SECONDS * 1000}
        async with asking(server.url, question(path, stream=True, echo=echo), path) as answer:
            assert await answer.head() == 200
            events = [event async for event in answer.events()]
        if path != RESPONSES:  # whose first events come before the first token
            assert events[0] == COMMENT
        assert COMMENT in events
        assert b"[DONE]" not in b"".join(events)
        assert error_of(events[-1])["type"] == "server_error"
        assert sum(b'"error":{' in event for event in events) == 1

    await asyncio.gather(*(one(path, fault) for path in FAMILIES for fault in ("eof", "cut")))


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_an_error_status_after_a_comment_becomes_an_event(server: Tritium, path: str) -> None:
    async def one(fault: str) -> None:
        asked = question(path, model="narrow", stream=True, echo={"fault": fault})
        async with asking(server.url, asked, path) as answer:
            assert await answer.head() == 200
            *comments, last = [event async for event in answer.events()]
        assert comments
        assert set(comments) == {COMMENT}
        assert "asked for" in error_of(last)["message"] or error_of(last)["message"] == "Internal Server Error"

    async with asking(server.url, question(path, model="narrow", echo={"ttft_ms": 2 * SECONDS * 1000}), path):
        eventually(lambda: count(server, "requests_in_flight", model="narrow") == 1)
        await asyncio.gather(*map(one, ("500", "429", "flat-error", "string-error", "text-error")))


async def test_no_field_that_would_make_a_comment_an_event_is_ever_sent(server: Tritium) -> None:
    for path in FAMILIES:
        asked = question(path, stream=True, echo={"ttft_ms": 1.5 * SECONDS * 1000})
        _, body = await ask(server.url, asked, path)
        assert COMMENT in body
        assert not [line for line in body.splitlines() if line.startswith((b"id:", b"retry:"))]


def slow(fault: str = "none") -> dict[str, Any]:
    return {"echo": {"ttft_ms": 2.5 * SECONDS * 1000, "itl_ms": 1.5 * SECONDS * 1000, "fault": fault, "after": 2}}


async def test_the_openai_client_reads_through_comments(server: Tritium) -> None:
    turns: list[Any] = [{"role": "user", "content": "one two three"}]
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="echo", messages=turns, stream=True, extra_body=slow())
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "one two three"
        events = await client.responses.create(model="echo", input="one two", stream=True, extra_body=slow())
        assert [event.type async for event in events][-1] == "response.completed"
        stream = await client.chat.completions.create(model="echo", messages=turns, stream=True, extra_body=slow("eof"))
        with pytest.raises(openai.APIError, match="before the answer was complete"):
            [chunk async for chunk in stream]


async def test_the_anthropic_client_reads_through_comments(server: Tritium) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client,
        client.messages.stream(
            model="echo", max_tokens=9, messages=[{"role": "user", "content": "one two"}], extra_body=slow()
        ) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == "one two"
