"""What a stream has said: its text to the letter whichever way it came, and whether anybody could go on with it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.journal import Journal, ReportedError

TEXTS = st.text(max_size=6) | st.sampled_from(
    ['"', "\\", '\\"', '"\\', "\\u0022", "\n\n", "😀", "\x00", "[DONE]", "data: "]
)


def event(text: str, *, kind: str = "chat", is_ascii: bool = False, spaces: bool = False, **rest: Any) -> bytes:
    """A chunk with a text, as engines write them."""
    own = {"delta": {"content": text}} if kind == "chat" else {"text": text}
    choice = {"index": 0, **own, "logprobs": None, "finish_reason": None}
    separators = None if spaces else (",", ":")
    body = {"id": "c1", "object": "x", "created": 1, "model": "m", "choices": [choice], **rest}
    return f"data: {json.dumps(body, ensure_ascii=is_ascii, separators=separators)}\n\n".encode()


def chunk(*, choices: list[dict[str, Any]] | None = None, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c1", "choices": choices or [], **fields}).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": fields}])


def told(journal: Journal, text: str, *, is_ascii: bool) -> None:
    """As the hot path tells it: with the quote behind it, unless it has a quote in it."""
    written = json.dumps(text, ensure_ascii=is_ascii)[1:-1].encode()
    if b'"' in written or not written:
        journal.note(event(text, is_ascii=is_ascii))
        return
    journal.keep(written + b'"')


@given(
    texts=st.lists(st.tuples(TEXTS, st.booleans()), max_size=12),
    kind=st.sampled_from(["chat", "text"]),
    is_ascii=st.booleans(),
    spaces=st.booleans(),
)
def test_the_text_comes_back_to_the_letter_whichever_way_it_was_told(
    texts: list[tuple[str, bool]], kind: str, is_ascii: bool, spaces: bool
) -> None:
    journal = Journal()
    sizes = [journal.size]
    for text, is_token in texts:
        if is_token:
            told(journal, text, is_ascii=is_ascii)
        else:
            journal.note(event(text, kind=kind, is_ascii=is_ascii, spaces=spaces))
        sizes.append(journal.size)
    assert journal.text() == "".join(text for text, _ in texts)
    assert sum(bool(text) for text, _ in texts) <= journal.tokens <= len(texts)  # an empty one may be a token
    assert journal.unsafe == ""
    for (text, _), before, after in zip(texts, sizes, sizes[1:], strict=False):
        assert after > before or not text


def test_a_character_that_comes_in_two_halves_is_whole_in_the_end() -> None:
    journal = Journal()
    for half in (rb"\ud83d", rb"\ude00"):
        journal.keep(half + b'"')
    assert journal.text() == "😀"
    assert journal.tokens == 2


def test_half_a_character_is_no_text() -> None:
    journal = Journal()
    journal.keep(rb'\ud83d"')
    with pytest.raises(msgspec.DecodeError):
        journal.text()


def test_the_head_is_what_all_chunks_share() -> None:
    journal = Journal()
    assert journal.head() == {}
    journal.note(event("a", system_fingerprint="f", usage=None))
    journal.note(event("b").replace(b"c1", b"c2"))
    assert {key: bytes(value) for key, value in journal.head().items()} == {
        "id": b'"c1"',
        "object": b'"x"',
        "created": b"1",
        "model": b'"m"',
    }


def test_it_has_begun_with_the_first_event_that_goes_out_and_not_with_a_comment() -> None:
    journal = Journal()
    journal.note(b": keep-alive\n\n")
    assert not journal.has_begun
    journal.note(delta(role="assistant", content=""))
    assert journal.has_begun
    assert (journal.text(), journal.unsafe) == ("", "")


def test_it_is_finished_by_a_reason_and_done_by_the_last_event() -> None:
    journal = Journal()
    journal.note(event("a"))
    assert not journal.is_finished
    journal.note(chunk(choices=[{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]))
    assert journal.is_finished
    assert not journal.is_done
    journal.note(b"data: [DONE]\n\n")
    assert journal.is_done
    assert (journal.text(), journal.unsafe) == ("ab", "")


def test_the_last_usage_counts() -> None:
    journal = Journal()
    assert journal.usage is None
    journal.note(event("a", usage={"prompt_tokens": 3, "completion_tokens": 1}))
    journal.note(event("b", usage=None))
    journal.note(chunk(usage={"prompt_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}))
    assert journal.usage is not None
    assert journal.usage.prompt_tokens == 4
    assert journal.usage.prompt_tokens_details is not None
    assert journal.usage.prompt_tokens_details.cached_tokens == 2


CALL = [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]


@pytest.mark.parametrize(
    ("unsafe", "why"),
    [
        (chunk(choices=[{"index": 1, "delta": {"content": "a"}}]), "several choices"),
        (chunk(choices=[{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]), "several choices"),
        (delta(tool_calls=CALL), "a tool call"),
        (delta(function_call={"name": "f"}), "a tool call"),
        (delta(reasoning_content="hm"), "reasoning"),
        (delta(reasoning="hm"), "reasoning"),
        (delta(refusal="no"), "reasoning"),
        (b"event: message_start\ndata: {}\n\n", "its events have names"),
        (b"data: {cut\n\n", "its events are of another form"),
        (b'data: {"choices":[{"delta":"a"}]}\n\n', "its events are of another form"),
        (b'data: ["a"]\n\n', "its events are of another form"),
        (b"data: \xff\n\n", "its events are of another form"),
    ],
)
@pytest.mark.parametrize("before", [[], ["a", "b"]])
def test_what_makes_a_stream_unsafe(unsafe: bytes, why: str, before: list[str]) -> None:
    journal = Journal()
    for text in before:
        journal.note(event(text))
    assert journal.unsafe == ""
    journal.note(unsafe)
    assert journal.unsafe == why
    journal.note(event("more"))
    assert journal.unsafe == why


@pytest.mark.parametrize(
    "safe",
    [
        b": keep-alive\n\n",
        delta(role="assistant", content=None, tool_calls=[], function_call=None, reasoning_content=None),
        delta(content="", reasoning="", refusal=None),
        chunk(usage={"prompt_tokens": 1}),
        b"data: [DONE]\n\n",
    ],
)
def test_what_does_not(safe: bytes) -> None:
    journal = Journal()
    journal.note(event("a"))
    journal.note(safe)
    assert (journal.unsafe, journal.text()) == ("", "a")


def test_why_it_is_unsafe_from_the_start_stays_the_reason() -> None:
    journal = Journal("it is not to be resumed")
    journal.note(event("a"))
    journal.note(b"event: x\ndata: {}\n\n")
    assert journal.unsafe == "it is not to be resumed"


@pytest.mark.parametrize(
    ("code", "is_final"),
    [(400, True), (404, True), (499, True), (429, False), (500, False), (503, False), (None, False), ("400", False)],
)
def test_the_engines_own_error_is_raised_with_its_event(code: object, is_final: bool) -> None:
    journal = Journal()
    journal.note(event("a"))
    failing = chunk(error={"message": "Out of memory.", "type": "x", "code": code})
    with pytest.raises(ReportedError, match=r"^Out of memory\.$") as raised:
        journal.note(failing)
    assert (raised.value.event, raised.value.is_final) == (failing, is_final)
    assert journal.text() == "a"


@pytest.mark.parametrize("error", ['"a text"', "[]", '{"message":null}', '{"code":400,"message":1}'])
def test_an_error_of_another_form_is_one_all_the_same(error: str) -> None:
    with pytest.raises(ReportedError, match="The engine reported an error in its stream") as raised:
        Journal().note(f'data: {{"error":{error}}}\n\n'.encode())
    assert not raised.value.is_final


def test_an_error_before_anything_went_out_begins_nothing() -> None:
    journal = Journal()
    with pytest.raises(ReportedError):
        journal.note(b'data: {"error":{"message":"no"}}\n\n')
    assert not journal.has_begun
