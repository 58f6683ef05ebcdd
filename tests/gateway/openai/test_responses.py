"""Responses: created by a model, and found again whichever process and engine is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from backends.config import ModelConfig
from backends.errors import ModelNotReady, Unavailable, UpstreamError
from backends.model import OpenAIRequest, OpenAIResponse, State
from gateway.snapshot import ModelStatus
from tests.backends.simulator.asking import events
from tests.faults.talking import RESPONSES, question
from tests.gateway.openai.served import Answering, Parts, made, ready
from tests.servers import Tritium

JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream"),)


@pytest.fixture(scope="module")
def clients(shared: Tritium) -> Iterator[list[httpx.Client]]:
    """Connections of their own, so that every server process gets some."""
    with ExitStack() as stack:
        yield [stack.enter_context(httpx.Client(base_url=shared.url, timeout=30)) for _ in range(8)]


def create(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(RESPONSES, json=question(RESPONSES, "hello world", **fields))
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


def test_a_stream_ends_with_the_whole_response(http: httpx.Client) -> None:
    told = events(http.post(RESPONSES, json=question(RESPONSES, "hello world", stream=True)).text)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["type"] == "response.completed"
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == "hello world"


@pytest.mark.parametrize("model", ["echo", "twins"])
def test_a_response_is_found_by_every_process_and_gone_once_it_is_deleted(
    model: str, clients: list[httpx.Client]
) -> None:
    kept = [create(client, model=model) for client in clients]  # of twins, on both engines
    for response in kept:
        path = f"{RESPONSES}/{response['id']}"
        assert [client.get(path).json() for client in clients] == [response] * len(clients)
        assert clients[0].delete(path).json() == {"id": response["id"], "object": "response", "deleted": True}
        for client in clients:
            gone = client.get(path)
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
            assert response["id"] in gone.json()["error"]["message"]


def test_a_response_in_the_background_is_cancelled_from_any_process(clients: list[httpx.Client]) -> None:
    response = create(clients[0], background=True, model="twins", echo={"ttft_ms": 600_000})
    assert response["status"] == "queued"
    cancelled = clients[1].post(f"{RESPONSES}/{response['id']}/cancel").json()
    assert (cancelled["id"], cancelled["status"]) == (response["id"], "cancelled")


def test_the_engines_refusal_to_cancel_is_passed_on(http: httpx.Client) -> None:
    refused = http.post(f"{RESPONSES}/{create(http)['id']}/cancel")
    assert refused.status_code == 400
    assert "synchronous" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "response_id",
    [
        "resp_unknown",
        "a%20b",
        "a%0d%0ax-evil:%201",
        "%3Fstream=true",
        "%23",
        "%252F",
        "caf%C3%A9",
        "%FF",
        "..",
        "x" * 9000,
    ],
)
def test_an_unknown_id_is_404_whatever_is_in_it(response_id: str, http: httpx.Client) -> None:
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/cancel")]:
        answer = http.request(method, f"{RESPONSES}/{response_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), answer.text


def whole(status: int, body: bytes) -> Answering:
    return lambda _: OpenAIResponse(status, JSON, Parts(body))


async def test_what_reaches_an_engine_is_the_clients_path_and_query_as_they_came() -> None:
    async with made(ready("a"), answering={"a": whole(200, b"{}")}) as (client, models):
        sent = f"{RESPONSES}/a%20b%0d%0aHost:%3F?stream=false&after=%0a"
        answer = await client.get(sent, headers={"x-request-id": "mine"})
        assert answer.json() == {}
        (asked,) = models["a"].asked
    assert (asked.method, f"{asked.path}?{asked.query}", asked.body) == ("GET", sent, b"")
    assert tuple(asked.headers) == ((b"x-request-id", b"mine"),)
    assert answer.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_an_engine_that_keeps_nothing_hides_no_other(status: int) -> None:
    answering = {"a": whole(status, b"{}"), "b": whole(200, b'{"id":"r"}')}
    async with made(ready("a"), ready("b"), answering=answering) as (client, _):
        assert (await client.get(f"{RESPONSES}/r")).json() == {"id": "r"}


@pytest.mark.parametrize("error", [Unavailable("down"), UpstreamError("broke"), ModelNotReady("starting")])
async def test_an_engine_that_fails_hides_no_other(error: Exception) -> None:
    answering: dict[str, Answering] = {"a": lambda _: error, "b": whole(200, b'{"id":"r"}')}
    failed = ModelStatus(ModelConfig("none", "made"), State.FAILED)
    async with made(ready("a"), failed, ready("b"), answering=answering) as (client, _):
        assert (await client.get(f"{RESPONSES}/r")).json() == {"id": "r"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unavailable("down"), 503, "service_unavailable"),
        (UpstreamError("broke"), 502, "engine_error"),
        (ModelNotReady("starting"), 404, "not_found"),  # it has lost what it kept
    ],
)
async def test_not_found_is_said_only_when_every_engine_could_say_so(error: Exception, status: int, code: str) -> None:
    answering: dict[str, Answering] = {"a": lambda _: error, "b": whole(404, b"{}")}
    async with made(ready("a"), ready("b"), answering=answering) as (client, _):
        answer = await client.get(f"{RESPONSES}/r")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_every_endpoint_of_a_model_is_asked() -> None:
    asked: list[OpenAIRequest] = []

    def third_time(request: OpenAIRequest) -> OpenAIResponse:
        asked.append(request)
        return OpenAIResponse(200 if len(asked) == 3 else 404, JSON, Parts(b'{"id":"r"}'))

    async with made(ready("a", endpoints=3), answering={"a": third_time}) as (client, _):
        assert (await client.get(f"{RESPONSES}/r")).json() == {"id": "r"}


async def test_an_engines_error_gets_the_envelope_and_keeps_its_status() -> None:
    async with made(ready("a"), answering={"a": whole(409, b'{"detail":"not now"}')}) as (client, _):
        answer = await client.post(f"{RESPONSES}/r/cancel")
    assert (answer.status_code, answer.json()["error"]["message"]) == (409, "not now")


async def test_an_engine_that_hangs_ends_in_the_deadlines_error() -> None:
    class Hanging(Parts):
        async def __anext__(self) -> bytes:
            await asyncio.get_running_loop().create_future()
            raise StopAsyncIteration

    body = Hanging()
    answering: dict[str, Answering] = {"a": lambda _: OpenAIResponse(200, JSON, body)}
    async with made(ready("a"), answering=answering, request_timeout=0.05) as (client, _):
        answer = await client.get(f"{RESPONSES}/r")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
    assert body.closed


DONE = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'


@pytest.mark.parametrize(
    ("parts", "passed", "is_broken"),
    [
        ((b"event: a\ndata: 1\n", b"\n" + DONE), b"event: a\ndata: 1\n\n" + DONE, False),
        ((b"event: a\ndata: 1\n\nevent: b\nda",), b"event: a\ndata: 1\n\n", True),
        ((b"event: a\ndata: 1\n\nevent", UpstreamError("It broke.")), b"event: a\ndata: 1\n\n", True),
        ((b'data: {"error":{"message":"own"}}\n\n', DONE), b'data: {"error":{"message":"own"}}\n\n', False),
    ],
)
async def test_a_stored_stream_ends_whole_or_with_one_error_event(
    parts: tuple[bytes | Exception, ...], passed: bytes, is_broken: bool
) -> None:
    body = Parts(*parts)
    answering: dict[str, Answering] = {"a": lambda _: OpenAIResponse(200, SSE, body)}
    async with made(ready("a"), answering=answering) as (client, _):
        answer = await client.get(f"{RESPONSES}/r?stream=true")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert answer.content.startswith(passed)
    rest = answer.content.removeprefix(passed)
    assert rest.startswith(b"event: error\ndata: ") is is_broken
    assert not is_broken or json.loads(rest.removeprefix(b"event: error\ndata: "))["error"]["message"]
    assert body.closed
