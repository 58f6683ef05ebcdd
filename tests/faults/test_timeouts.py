"""Deadlines: each ends in its error, before and after the first byte, and frees the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any

import openai
import pytest

from tests.engines import EchoEngine
from tests.faults.looking import at_rest, complaints, count, engine_of
from tests.faults.talking import CHAT, FAMILIES, FOREVER, RESPONSES, ask, asking, error_of, question
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually

FIRST_TOKEN, STALL, REQUEST = 0.5, 0.3, 1.0
LATE = 0.5  # how much later than its time an end may come on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    repository = echo_repository(tmp_path_factory.mktemp("models"), {"echo": {}, "narrow": {"slots": 1}})
    flags = {"first-token-timeout": FIRST_TOKEN, "stall-timeout": STALL, "request-timeout": REQUEST}
    with serving(repository, *(f"--{name}={value}" for name, value in flags.items())) as tritium:
        yield tritium
        assert complaints(tritium) == []


@pytest.fixture(autouse=True)
async def engine(server: Tritium) -> AsyncIterator[EchoEngine]:
    with engine_of(server) as echo:
        yield echo
        await echo.idle(seconds=1)
    at_rest(server)


def check(error: dict[str, Any], code: str, words: str) -> None:
    assert (error["type"], error["code"]) == ("timeout_error", code)
    assert words in error["message"]


@pytest.mark.parametrize("fault", ["hang-before-head", "hang-before-first-token"])
async def test_a_stream_without_a_first_token_ends_in_a_504_in_every_family(server: Tritium, fault: str) -> None:
    async def one(path: str) -> None:
        start = monotonic()
        answer, body = await ask(server.url, question(path, stream=True, echo={"fault": fault}), path)
        if path == RESPONSES and answer.status == 200:
            return  # its first events come before the first token: it stalls
        assert answer.status == 504
        check(json.loads(body)["error"], "engine_timeout", "no first token within 0.5 s")
        assert FIRST_TOKEN <= monotonic() - start < FIRST_TOKEN + LATE

    await asyncio.gather(*map(one, FAMILIES))


async def test_a_stream_that_stalls_ends_in_an_error_event_in_every_family(server: Tritium) -> None:
    async def one(path: str) -> None:
        asked = question(path, stream=True, echo={"fault": "hang", "after": 2})
        async with asking(server.url, asked, path) as answer:
            assert await answer.head() == 200
            start = monotonic()
            events = [event async for event in answer.events()]
        assert b"two" in b"".join(events)
        assert sum(b'"error":{' in event for event in events) == 1
        check(error_of(events[-1]), "engine_timeout", "nothing more within 0.3 s")
        assert STALL - 0.1 <= monotonic() - start < STALL + LATE
        assert b"data: [DONE]" not in events

    await asyncio.gather(*map(one, FAMILIES))


async def test_a_slow_but_steady_stream_is_no_stall(server: Tritium) -> None:
    _, body = await ask(server.url, question(words="w w w w", stream=True, echo={"itl_ms": STALL * 800}))
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_stall_after_a_keep_alive_is_measured_by_the_stall_timeout(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    repository = echo_repository(tmp_path_factory.mktemp("models"), {"echo": {}})
    with serving(repository, "--first-token-timeout=30", "--stall-timeout=0.4", "--keepalive-seconds=0.1") as other:
        asked = question(stream=True, echo={"fault": "hang", "after": 1, "ttft_ms": 300})
        _, body = await ask(other.url, asked)
    assert body.startswith(b": keep-alive\n\n")
    assert b"nothing more within 0.4 s" in body


async def test_a_request_without_a_stream_ends_by_the_request_timeout(server: Tritium) -> None:
    async def one(fault: str) -> None:
        start = monotonic()
        answer, body = await ask(server.url, question(echo={"fault": fault}))
        assert answer.status == 504
        check(json.loads(body)["error"], "request_timeout", "did not finish before its deadline")
        assert answer.headers["x-should-retry"] == "false"
        assert REQUEST <= monotonic() - start < REQUEST + LATE

    await asyncio.gather(one("hang-before-head"), one("hang"))


async def test_the_request_timeout_ends_a_stream_that_flows(server: Tritium) -> None:
    start = monotonic()
    async with asking(server.url, question(words="w " * 1000, stream=True, echo={"itl_ms": 50})) as answer:
        assert await answer.head() == 200
        events = [event async for event in answer.events()]
    check(error_of(events[-1]), "request_timeout", "deadline")
    assert len(events) > 10
    assert REQUEST <= monotonic() - start < REQUEST + LATE


@pytest.mark.parametrize("stream", [True, False])
async def test_the_clients_own_timeout_ends_it_sooner(server: Tritium, stream: bool) -> None:
    start = monotonic()
    asked = question(stream=stream, echo=FOREVER)
    answer, body = await ask(server.url, asked, CHAT, "X-Request-Timeout-Ms: 250")
    assert answer.status == 504
    check(json.loads(body)["error"], "request_timeout", "deadline")
    assert 0.25 <= monotonic() - start < 0.25 + LATE


async def test_the_clients_own_timeout_ends_a_stream_in_the_middle(server: Tritium) -> None:
    asked = question(words="w " * 1000, stream=True, echo={"itl_ms": 20})
    async with asking(server.url, asked, CHAT, "x-request-timeout-ms: 300") as answer:
        await answer.head()
        events = [event async for event in answer.events()]
    check(error_of(events[-1]), "request_timeout", "deadline")
    assert len(events) > 5


async def test_a_longer_timeout_of_the_client_does_not_lift_the_servers(server: Tritium) -> None:
    start = monotonic()
    answer, _ = await ask(server.url, question(echo=FOREVER), CHAT, "x-request-timeout-ms: 60000")
    assert answer.status == 504
    assert monotonic() - start < REQUEST + LATE


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf", "", "1e999", "\xff"])
async def test_a_timeout_that_is_none_is_refused(server: Tritium, value: str) -> None:
    answer, body = await ask(server.url, question(), CHAT, f"x-request-timeout-ms: {value}")
    assert answer.status == 400
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert "X-Request-Timeout-Ms must be a positive number" in error["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_that_passes_in_the_queue_ends_the_wait(server: Tritium, stream: bool) -> None:
    async with asking(server.url, question(model="narrow", echo=FOREVER)):
        eventually(lambda: count(server, "requests_in_flight", model="narrow") == 1)
        asked = question(model="narrow", stream=stream)
        answer, body = await ask(server.url, asked, CHAT, "x-request-timeout-ms: 200")
        assert answer.status == 504
        check(json.loads(body)["error"], "request_timeout", "deadline")
        assert count(server, "queue_depth", model="narrow") == 0


async def test_time_in_the_queue_is_not_the_engines_silence(server: Tritium) -> None:
    held = question(model="narrow", echo={"ttft_ms": (FIRST_TOKEN + 0.2) * 1000})
    async with asking(server.url, held):
        eventually(lambda: count(server, "requests_in_flight", model="narrow") == 1)
        answer, body = await ask(server.url, question(model="narrow", stream=True))
        assert answer.status == 200
        assert body.endswith(b"data: [DONE]\n\n")


async def test_the_openai_client_raises_for_a_deadline_without_spending_it_again(server: Tritium) -> None:
    at_rest(server)
    before = count(server, "requests_total")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError, match="deadline"):
            await client.chat.completions.create(
                model="echo",
                messages=[{"role": "user", "content": "a"}],
                extra_body={"echo": FOREVER},
                extra_headers={"x-request-timeout-ms": "100"},
            )
    at_rest(server)
    assert count(server, "requests_total") == before + 1


async def test_an_upload_that_never_ends_is_ended_by_the_request_timeout(server: Tritium) -> None:
    start = monotonic()
    async with asking(server.url, question()) as answer:
        await answer.head()
        await answer.rest()
        answer.writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{" % CHAT.encode())
        assert await answer.head() == 504
        assert monotonic() - start < REQUEST + LATE


async def test_timeouts_are_counted_by_kind(server: Tritium) -> None:
    before = (
        count(server, "errors_total", kind="upstream_timeout"),
        count(server, "errors_total", kind="deadline_exceeded"),
    )
    await ask(server.url, question(stream=True, echo=FOREVER))
    await ask(server.url, question(stream=True, echo=FOREVER), CHAT, "x-request-timeout-ms: 100")
    at_rest(server)
    after = (
        count(server, "errors_total", kind="upstream_timeout"),
        count(server, "errors_total", kind="deadline_exceeded"),
    )
    assert after == (before[0] + 1, before[1] + 1)
