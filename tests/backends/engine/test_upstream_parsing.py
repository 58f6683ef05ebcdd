"""HTTP/1.1 as engines write it, with borders anywhere: framings, interim answers, cuts, garbage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.answer import Answer
from backends.engine.upstream import Pool
from backends.errors import UpstreamError, UpstreamProtocolError
from tests.backends.engine.scripted import (
    OK,
    WAYS,
    Drain,
    Scripted,
    asked,
    chunked,
    get,
    iterated,
    scripted,
)
from tests.processes import holds


@dataclass(frozen=True)
class Script:
    """An answer as bytes, and what it means."""

    wire: bytes
    status: int
    body: bytes
    is_framed: bool
    is_kept: bool
    head_bytes: int


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    status = draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503]))
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    body = b"".join(parts)
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    is_kept = draw(st.booleans()) and framing != "close"
    fields = [b"Content-Type: text/plain", b"x-Own:  v a l", b"Server: toy", b"X-Request-Id: theirs"]
    if not is_kept:
        fields.append(b"Connection: close")
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
        payload = body
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        payload = chunked(
            parts,
            extension=draw(st.sampled_from([b"", b";a=b"])),
            trailer=draw(st.sampled_from([b"", b"x-sum: 7\r\n"])),
        )
    else:
        payload = body
    interim = draw(
        st.sampled_from(
            [
                b"",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
            ]
        )
    )
    head = b"HTTP/1.1 %d Some Reason\r\n" % status + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    return Script(interim + head + payload, status, body, framing != "close", is_kept, len(interim + head))


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[start:end] for start, end in pairwise(borders)]


@dataclass(frozen=True)
class Outcome:
    """What became of an exchange: `answer` at its head, `body` at its end, `idle` connections afterwards."""

    answer: Answer | None
    body: bytes
    error: UpstreamError | None
    idle: int


async def exchange(parts: list[bytes], drain: Drain, *, is_ended: bool) -> Outcome:
    """One request, answered by these parts; the server closes then if `is_ended`."""
    async with scripted() as server:
        pool = Pool(server.address, "The toy")
        task = get(pool)
        conversation = await server.next()
        await conversation.request()

        async def read() -> Outcome:
            answer, body, error = None, b"", None
            try:
                answer = await task
                body = await drain(answer)
            except UpstreamError as raised:
                error = raised
            finally:
                if answer is not None:
                    await answer.aclose()
            return Outcome(answer, body, error, pool.idle_count)

        reading = asyncio.create_task(read())
        await conversation.say(*parts)
        if is_ended:
            conversation.end()
        outcome = await asyncio.wait_for(reading, 10)
        pool.close()
        await holds(lambda: pool.open_count == 0)
        return outcome


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@given(script=scripts(), cuts=st.lists(st.integers(0, 600), max_size=10), drain=st.sampled_from(WAYS))
def test_an_answer_is_the_same_wherever_its_bytes_are_cut_apart(
    runner: asyncio.Runner, script: Script, cuts: list[int], drain: Drain
) -> None:
    outcome = runner.run(exchange(split(script.wire, cuts), drain, is_ended=not script.is_framed))
    assert outcome.error is None
    assert outcome.answer is not None
    assert outcome.answer.status == script.status
    # Fields of the connection, and those that the gateway writes itself, are not the answer's.
    assert outcome.answer.headers == [(b"content-type", b"text/plain"), (b"x-own", b"v a l")]
    assert outcome.body == script.body
    assert outcome.idle == script.is_kept


@given(
    script=scripts().filter(lambda script: script.is_framed),
    at=st.integers(0, 600),
    cuts=st.lists(st.integers(0, 600), max_size=5),
    drain=st.sampled_from(WAYS),
)
def test_an_answer_cut_short_is_never_taken_for_a_whole_one(
    runner: asyncio.Runner, script: Script, at: int, cuts: list[int], drain: Drain
) -> None:
    wire = script.wire[: at % len(script.wire)]
    outcome = runner.run(exchange(split(wire, cuts), drain, is_ended=True))
    assert type(outcome.error) is UpstreamError
    assert "The toy" in outcome.error.message
    assert (outcome.answer is not None) == (len(wire) >= script.head_bytes)
    assert outcome.idle == 0


@given(garbage=st.binary(min_size=1, max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_garbage_is_an_error_and_the_connection_is_not_used_again(
    runner: asyncio.Runner, garbage: bytes, cuts: list[int]
) -> None:
    outcome = runner.run(exchange(split(garbage, cuts), iterated, is_ended=True))
    assert isinstance(outcome.error, UpstreamError)
    assert outcome.idle == 0


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-toy\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: toy\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/9.9.9 200\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_protocol_error_before_the_head(wire: bytes, server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(wire)
    with pytest.raises(UpstreamProtocolError, match="The toy sent bytes that are not"):
        await task
    await conversation.gone()


@pytest.mark.parametrize("drain", WAYS)
async def test_what_is_not_http_in_the_body_comes_after_what_was(drain: Drain, server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    answer = await task
    seen = bytearray()

    async def read() -> None:
        if drain is iterated:
            async for data in answer:
                seen.extend(data)
        else:
            await answer.pump(seen.extend)

    reading = asyncio.create_task(read())
    await holds(lambda: bytes(seen) == b"abc")
    await conversation.say(b"no length\r\n")
    with pytest.raises(UpstreamProtocolError):
        await reading
    await answer.aclose()
    await conversation.gone()
