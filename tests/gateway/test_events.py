"""Event streams in whole events: chunk borders anywhere, usage read and taken out, errors last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import UpstreamProtocolError
from gateway.events import MAX_EVENT_BYTES, Events, usage_of

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"usage":', 'data: {"error"', "\n\ndata: [DONE]\n\n", "\r\n\r\n", "é😀", '\\"usage\\":{}', "choices"]
)
COUNTS = st.tuples(st.integers(1, 9999), st.integers(1, 9999))


@dataclass(frozen=True)
class Event:
    """One event as lines. `counts` are those that it reports; `is_usage_chunk`: it carries nothing else."""

    lines: tuple[str, ...]
    counts: tuple[int, int] | None = None
    is_usage_chunk: bool = False


def event(fields: dict[str, Any], *, name: str = "", is_spaced: bool = False, **rest: Any) -> Event:
    # Engines write JSON with and without spaces, with and without escapes of what is not ASCII.
    text = json.dumps(fields, ensure_ascii=is_spaced, separators=(", ", ": ") if is_spaced else (",", ":"))
    return Event((*([f"event: {name}"] if name else []), f"data: {text}"), **rest)


@st.composite
def ordinary(draw: st.DrawFn) -> Event:
    """Anything but the usage chunk: it must pass as it is."""
    text, counts = draw(TEXTS), draw(COUNTS)
    prompt, completion = counts
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    openai = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    named = {"input_tokens": prompt, "output_tokens": completion}
    spaced = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                event({"id": "c", "choices": [choice]}, is_spaced=spaced),
                event({"id": "c", "choices": [choice], "usage": None}, is_spaced=spaced),
                event({"id": "c", "choices": [choice], "usage": openai}, is_spaced=spaced, counts=counts),
                event({"choices": [], "prompt_filter_results": [{"text": text}], "usage": None}),
                event({"choices": [], "text": text}, is_spaced=spaced),
                event({"type": "response.completed", "response": {"usage": named}}, name="response.completed")
                if draw(st.booleans())
                else event({"type": "response.in_progress", "response": {"usage": None}}, name="response.in_progress"),
                event({"type": "message_start", "message": {"usage": named}}, name="message_start", counts=counts),
                event({"type": "message_delta", "usage": named}, name="message_delta", counts=counts),
                Event((": a comment",)),
                Event(('data: {"usage": not JSON',)),
                Event(("data: ping",)),
            ]
        )
    )


@st.composite
def usage_chunk(draw: st.DrawFn) -> Event:
    prompt, completion = draw(COUNTS)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    details = {"prompt_tokens_details": {"cached_tokens": 3}} if draw(st.booleans()) else {}
    fields = {"id": draw(TEXTS), "choices": [], "usage": {**usage, **details}}
    return event(fields, is_spaced=draw(st.booleans()), counts=(prompt, completion), is_usage_chunk=True)


def counted(events: list[Event]) -> tuple[int, int]:
    """The last counts that were reported."""
    reported = [each for each in events if each.counts or each.lines[0] == "event: response.completed"]
    if not reported:
        return 0, 0
    if (last := reported[-1]).counts:
        return last.counts
    usage = json.loads(last.lines[1].removeprefix("data: "))["response"]["usage"]
    return usage["input_tokens"], usage["output_tokens"]


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[start:end] for start, end in pairwise(borders)]


def rendered(event: Event, newline: str) -> bytes:
    return "".join(line + newline for line in (*event.lines, "")).encode()


@given(
    events=st.lists(ordinary() | usage_chunk(), max_size=6),
    newlines=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=6, max_size=6),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    rest=st.sampled_from([b"", b"\n", b"data: {", b'data: {"choices":[],"usage":{', b"data: [DONE]\n", b"\r\n\r"]),
    strip_usage=st.booleans(),
)
def test_what_comes_out_is_every_whole_event_in_order_without_the_usage_chunk(
    events: list[Event], newlines: list[str], cuts: list[int], rest: bytes, strip_usage: bool
) -> None:
    pieces = [rendered(each, newline) for each, newline in zip(events, newlines, strict=False)]
    ends = {sum(map(len, pieces[:number])) for number in range(len(pieces) + 1)}
    stream = Events(strip_usage=strip_usage)
    out = b""
    passed = 0
    for chunk in split(b"".join(pieces) + rest, cuts):
        passed += len(chunk)
        out += stream.feed(chunk)
        whole = max(end for end in ends if end <= passed)
        upto = sum(1 for end in ends if 0 < end <= whole)
        kept = [
            piece
            for piece, each in zip(pieces[:upto], events[:upto], strict=True)
            if not (strip_usage and each.is_usage_chunk)
        ]
        # A line break of the rest may have followed an event that was complete without it.
        assert out.rstrip(b"\r\n") == b"".join(kept).rstrip(b"\r\n")
    assert (stream.prompt_tokens, stream.completion_tokens) == counted(events)
    assert not stream.failed


@given(
    before=st.lists(ordinary() | usage_chunk(), max_size=3),
    after=st.lists(ordinary(), max_size=3),
    failure=st.sampled_from(
        [
            Event(('data: {"error":{"message":"boom","type":"server_error"}}',)),
            Event(('data: {"error": {"message": "boom"}}',)),
            Event(("event: error", 'data: {"error":"boom"}')),
        ]
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
)
def test_an_engines_error_event_is_the_last_that_passes(
    before: list[Event], after: list[Event], failure: Event, newline: str, cuts: list[int]
) -> None:
    pieces = [rendered(each, newline) for each in (*before, failure, *after)]
    stream = Events(strip_usage=True)
    out = b""
    for chunk in split(b"".join(pieces), cuts):
        out += stream.feed(chunk)
        if stream.failed:
            break
    assert stream.failed
    kept = [piece for piece, each in zip(pieces, before, strict=False) if not each.is_usage_chunk]
    assert out == b"".join([*kept, rendered(failure, newline)])


@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), cuts=st.lists(st.integers(0, 400), max_size=20)
)
def test_characters_split_across_borders_come_out_whole(text: str, cuts: list[int]) -> None:
    wire = rendered(event({"choices": [{"delta": {"content": text}}]}), "\n")
    stream = Events(strip_usage=False)
    outputs = [stream.feed(chunk) for chunk in split(wire, cuts)]
    assert outputs[-1] == wire
    assert not any(outputs[:-1])


@pytest.mark.parametrize("strip_usage", [True, False])
@pytest.mark.parametrize(
    "chunk", [b'data: {"choices":[],"usage":%b}\n\n', b'data: {"usage": %b, "choices": []}\r\n\r\n']
)
def test_the_usage_chunk_leaves_alone_joined_and_split(chunk: bytes, strip_usage: bool) -> None:
    usage = chunk % b'{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'
    first, done = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n"
    kept = b"" if strip_usage else usage
    alone = Events(strip_usage=strip_usage)
    assert [alone.feed(part) for part in (first, usage, done)] == [first, kept, done]
    joined = Events(strip_usage=strip_usage)
    assert joined.feed(first + usage + done) == first + kept + done
    byte_by_byte = Events(strip_usage=strip_usage)
    assert b"".join([byte_by_byte.feed(bytes([byte])) for byte in first + usage + done]) == first + kept + done
    for stream in (alone, joined, byte_by_byte):
        assert (stream.prompt_tokens, stream.completion_tokens) == (7, 3)
        assert stream.ended_with((b"data: [DONE]",))


def test_an_event_over_the_limit_is_refused_and_what_was_whole_before_it_has_passed() -> None:
    stream = Events(strip_usage=False)
    block = b"x" * (MAX_EVENT_BYTES // 4)
    assert stream.feed(b"data: a\n\ndata: ") == b"data: a\n\n"
    for _ in range(3):
        assert stream.feed(block) == b""
    with pytest.raises(UpstreamProtocolError, match=str(MAX_EVENT_BYTES)):
        stream.feed(block)


def test_an_event_just_below_the_limit_passes() -> None:
    stream = Events(strip_usage=False)
    wire = b"data: " + b"x" * (MAX_EVENT_BYTES - 7) + b"\n\n"
    assert stream.feed(wire[:-1]) == b""
    assert stream.feed(wire[-1:]) == wire


@pytest.mark.parametrize(
    ("parts", "marks", "is_whole"),
    [
        ([b"data: a\n\n", b"data: [DONE]\n\n"], (b"data: [DONE]",), True),
        ([b"data: a\n\ndata: [DO", b"NE]\n\n"], (b"data: [DONE]",), True),
        ([b"data: a\r\n\r\ndata: [DONE]\r\n\r\n"], (b"data: [DONE]",), True),
        ([b"data: a\n\ndata: [DONE]\n"], (b"data: [DONE]",), False),
        ([b"data: a\n\n"], (b"data: [DONE]",), False),
        ([b'data: {"text":"data: [DONE]"}\n\n'], (b"data: [DONE]",), False),
        ([b"data: [DONE]\n\ndata: more\n\n"], (b"data: [DONE]",), False),
        ([], (b"data: [DONE]",), False),
        ([b"event: message_stop\ndata: {}\n\n"], (b"event: message_stop", b"event: error"), True),
        ([b"event: ping\ndata: {}\n\n"], (b"event: message_stop", b"event: error"), False),
    ],
)
def test_a_stream_is_whole_when_its_last_event_says_so(
    parts: list[bytes], marks: tuple[bytes, ...], is_whole: bool
) -> None:
    stream = Events(strip_usage=True)
    for part in parts:
        stream.feed(part)
    assert stream.ended_with(marks) is is_whole


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        (b'{"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}', (5, 2)),
        (b'{"usage":{"input_tokens":5,"output_tokens":2}}', (5, 2)),
        (b'{"usage":{"total_tokens":7}}', (7, 0)),
        (b'{"usage":{"prompt_tokens":4,"total_tokens":4}}', (4, 0)),
        (b'{"usage":null}', (0, 0)),
        (b'{"usage":"much"}', (0, 0)),
        (b'{"usage":{"prompt_tokens":"many"}}', (0, 0)),
        (b"[1]", (0, 0)),
        (b"\xff", (0, 0)),
        (b"", (0, 0)),
    ],
)
def test_the_usage_of_a_whole_answer_is_read_under_each_familys_names(body: bytes, counts: tuple[int, int]) -> None:
    assert usage_of(body) == counts


def test_anthropics_cached_tokens_are_prompt_tokens_too() -> None:
    body = b'{"usage": {"input_tokens": 3, "cache_read_input_tokens": 40, "output_tokens": 2}}'
    assert usage_of(body) == (43, 2)
