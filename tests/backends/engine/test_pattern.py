"""Tokens known by the one before them: past the parser, and the stream is still what the engine sent."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backends.engine.pattern import Pattern
from backends.engine.upstream import Connection, Pool

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(['"', "\\", '"}', "\n\n", "data: "])


def token(text: str, **rest: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    body = json.dumps({"id": "c", "choices": [choice], **rest}, separators=(",", ":"), ensure_ascii=False)
    return f"data: {body}\n\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


OTHERS = st.sampled_from(
    [
        b": keep-alive\n\n",
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n',
        token("x", usage={"prompt_tokens": 1}),
        token("x", usage=None),
        b'data: {"error":{"message":"broke"}}\n\n',
        b"data: [DONE]\n\n",
    ]
)


class Transport(asyncio.Transport):
    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@given(
    events=st.lists(st.builds(token, TEXTS) | OTHERS, min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 3000), max_size=10),
    reads=st.lists(st.integers(0, 3000), max_size=10),
    is_chunk_an_event=st.booleans(),
    is_read_a_chunk=st.booleans(),
    slow_after=st.integers(0, 12),
)
async def test_a_stream_is_whole_and_in_order_wherever_its_chunks_and_reads_end(
    events: list[bytes],
    cuts: list[int],
    reads: list[int],
    is_chunk_an_event: bool,
    is_read_a_chunk: bool,
    slow_after: int,
) -> None:
    body = b"".join(events)
    pieces = [part for part in (events if is_chunk_an_event else split(body, cuts)) if part]
    chunks = [chunk(piece) for piece in pieces]
    arriving = chunks if is_read_a_chunk else split(b"".join(chunks), reads)
    connection = Connection(Pool("http://127.0.0.1:1", "An engine"), asyncio.get_running_loop())
    connection.connection_made(Transport())
    answer = connection.send(b"GET / HTTP/1.1\r\n\r\n")
    text = bytearray()
    out: list[bytes] = []
    taken: list[bytes] = []

    def frame(framed: bytes, start: int, end: int) -> bool:
        if len(taken) >= slow_after:
            return False
        size, _, rest = framed.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        out.append(rest[:-2])
        taken.append(rest[:-2])
        text.extend(framed[start:end])
        return True

    connection.data_received(HEAD)
    pumping = asyncio.create_task(answer.pump(out.append, frame))
    await asyncio.sleep(0)
    for data in arriving:
        connection.data_received(data)
    connection.data_received(b"0\r\n\r\n")
    await pumping
    assert b"".join(out) == body
    texts = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"] for event in taken]
    assert json.loads(b'"%b"' % bytes(text)) == "".join(texts)


def test_a_token_in_one_chunk_is_taken_once_one_like_it_was_seen() -> None:
    pattern = Pattern()
    assert not pattern.learn(token(""))
    assert pattern.learn(token("one"))
    assert not pattern.learn(token("two"))
    texts: list[bytes] = []

    def take(framed: bytes, start: int, end: int) -> bool:
        texts.append(framed[start:end])
        return True

    offer = pattern.gate(take)
    assert offer(chunk(token("three")))
    assert not offer(chunk(token("three", usage={"prompt_tokens": 1})))
    assert not offer(chunk(token('a "quote"')))
    assert not offer(chunk(token("three")) + b"1")
    assert not offer(token("three"))
    assert texts == [b"three"]
    assert not pattern.gate(lambda *_: False)(chunk(token("three")))


def test_the_text_of_an_event_like_those_before_it_is_told() -> None:
    pattern = Pattern()
    assert pattern.text(token("one")) is None
    pattern.learn(token("one"))
    assert pattern.text(token("zwei\n")) == b"zwei\\n"
    assert pattern.text(token('a "quote"')) is None
    assert pattern.text(token("one", usage=None)) is None


def test_an_event_that_reports_usage_or_an_error_teaches_nothing() -> None:
    pattern = Pattern()
    assert not pattern.learn(token("one", usage={"prompt_tokens": 1}))
    assert not pattern.learn(token("one", error={"message": "broke"}))
    assert not pattern.is_known


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(borders)]
