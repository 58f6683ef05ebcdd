"""A stream that went on in another engine says so behind its last chunk, and no client stumbles over that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import httpx
import openai
import pytest

from tests.faults.looking import at_rest, complaints, count, engine_of
from tests.faults.talking import CHAT, Answer, ask, asking, connection, events_of, question, request
from tests.servers import Tritium, echo_repository, serving

LAST = [b"0", b"x-tritium-resumes: 1", b"", b""]
WORDS = "one two three four five six"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    turns = 'parameters { key: "routing_policy" value { string_value: "round_robin" } }'
    config = f"instance_group [{{ count: 2 }}] {turns}"
    repository = echo_repository(tmp_path_factory.mktemp("models"), {"echo": {"config": config}})
    with serving(repository, "--workers", "1", "--strict-readiness") as tritium:
        yield tritium
        assert complaints(tritium) == []


@asynccontextmanager
async def breaking(server: Tritium) -> AsyncIterator[str]:
    """Words whose next stream breaks in the middle: two engines take turns, and the one whose turn it is cuts it."""
    for _ in range(2):  # both answer, so that neither is out for what it did before
        answer, _ = await ask(server.url, question())
    last = int(answer.headers["x-tritium-endpoint"].rpartition("-")[2])
    before = count(server, "resumes_total")
    with engine_of(server, number=1 - last) as engine:
        engine.configure(fault="cut", after=3, times=1)
        try:
            yield WORDS
        finally:
            engine.configure(fault="none", after=-1, times=0)
    at_rest(server)
    assert count(server, "resumes_total") == before + 1


@dataclass
class Read:
    """An answer as h11 reads it."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)


async def read(answer: Answer, client: h11.Connection, body: bytes) -> Read:
    """Ask over this connection and read the answer to its end."""
    fields = {"host": "tritium", "content-length": str(len(body))}
    asked = [
        h11.Request(method="POST", target=CHAT, headers=list(fields.items())),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    for part in asked:
        answer.writer.write(client.send(part) or b"")
    found = Read()
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await answer.reader.read(65536))
        elif isinstance(event, h11.Response):
            assert event.status_code == 200
            found.headers = dict(event.headers)
        elif isinstance(event, h11.Data):
            found.body += bytes(event.data)
        else:
            assert isinstance(event, h11.EndOfMessage), event
            found.trailers = list(event.headers)
            return found


def text(events: list[bytes]) -> str:
    """What a whole stream of chat chunks says."""
    assert events[-1] == b"data: [DONE]"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def streamed(words: str) -> dict[str, Any]:
    return question(words=words, stream=True)


async def test_the_trailer_stands_behind_the_last_chunk_and_is_announced(server: Tritium) -> None:
    async with breaking(server) as words, asking(server.url, streamed(words), CHAT, "connection: close") as answer:
        assert await answer.head() == 200
        assert answer.is_chunked
        assert answer.headers["trailer"] == "x-tritium-resumes"
        assert (await answer.reader.read()).split(b"\r\n")[-4:] == LAST


async def test_h11_reads_the_trailer_and_goes_on_with_the_connection(server: Tritium) -> None:
    async with breaking(server) as words, connection(server.url) as answer:
        client = h11.Connection(h11.CLIENT)
        first = await read(answer, client, json.dumps(streamed(words)).encode())
        assert text(events_of(first.body)) == words
        assert first.trailers == [(b"x-tritium-resumes", b"1")]
        assert first.headers[b"trailer"] == b"x-tritium-resumes"
        client.start_next_cycle()
        second = await read(answer, client, json.dumps(streamed(words)).encode())
        assert text(events_of(second.body)) == words
        assert second.trailers == []


async def test_httpx_reads_the_stream_and_goes_on_with_the_connection(server: Tritium) -> None:
    limits = httpx.Limits(max_connections=1)
    async with breaking(server) as words, httpx.AsyncClient(base_url=server.url, limits=limits, timeout=30) as client:
        connections = set()
        for _ in range(2):
            async with client.stream("POST", CHAT, json=streamed(words)) as response:
                connections.add(response.extensions["network_stream"].get_extra_info("client_addr"))
                assert text(events_of(await response.aread())) == words
        assert len(connections) == 1


async def test_the_openai_client_reads_the_stream(server: Tritium) -> None:
    async with (
        breaking(server) as words,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": words}], stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == words
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_client_of_http_1_0_gets_the_stream_without_a_trailer(server: Tritium) -> None:
    async with breaking(server) as words, connection(server.url) as answer:
        answer.writer.write(request(CHAT, json.dumps(streamed(words)).encode(), version="1.0"))
        assert await answer.head() == 200
        assert not answer.is_chunked
        body = await answer.rest()
        assert text(events_of(body)) == words
        assert body.endswith(b"data: [DONE]\n\n")
        assert await answer.is_closed()


async def test_a_stream_that_one_engine_gave_has_no_trailer(server: Tritium) -> None:
    async with asking(server.url, streamed(WORDS), CHAT, "connection: close") as answer:
        assert await answer.head() == 200
        assert (await answer.reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
