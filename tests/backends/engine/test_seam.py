"""Two engines' events as one answer: its text cut where one engine would have cut it, its tokens counted once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.seam import Fields, Seam, binding, least, shortened, stops

HEAD = {"id": "first", "object": "chat.completion.chunk", "created": 1, "model": "m"}
LETTERS = "ab😀"


def raw(**fields: Any) -> Fields:
    return {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in fields.items()}


def plain(fields: Fields | None) -> Any:
    return None if fields is None else json.loads(msgspec.json.encode(fields))


def seam(sent: str = "", tokens: int = 0, stop: tuple[str, ...] = (), *, is_over: bool = False, **head: Any) -> Seam:
    return Seam(raw(**{**HEAD, **head}), sent, tokens, stop, is_over=is_over)


def event(**fields: Any) -> bytes:
    body = {"id": "second", "object": "chat.completion.chunk", "created": 2, "model": "other", **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def token(text: str, *, kind: str = "chat", reason: str | None = None, **delta: Any) -> bytes:
    own = {"delta": {**delta, "content": text}} if kind == "chat" else {"text": text}
    return event(choices=[{"index": 0, **own, "logprobs": None, "finish_reason": reason}])


DONE = b"data: [DONE]\n\n"


@dataclass
class Heard:
    """What of an answer reached the client."""

    chunks: list[dict[str, Any]]
    is_done: bool

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def text(self) -> str:
        return "".join(each.get("delta", each).get("content") or each.get("text") or "" for each in self.choices)

    @property
    def reasons(self) -> list[str]:
        return [each["finish_reason"] for each in self.choices if each["finish_reason"]]


def heard(made: Seam, *events: bytes) -> Heard:
    found = [part for part in b"".join(map(made.convert, events)).split(b"\n\n") if part]
    assert all(part.startswith(b"data: ") for part in found)
    is_done = bool(found) and found[-1] == b"data: [DONE]"
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in found if part != b"data: [DONE]"]
    return Heard(chunks, is_done)


# One answer


def test_the_second_engines_chunks_are_those_of_the_first_ones_answer() -> None:
    said = heard(seam("one"), token(" two"), event(choices=[], usage=None, system_fingerprint="f"), DONE)
    for chunk in said.chunks:
        assert {key: chunk[key] for key in HEAD} == HEAD
    assert said.chunks[1]["system_fingerprint"] == "f"
    assert (said.text, said.is_done) == (" two", True)


def test_a_field_that_the_second_engine_does_not_have_is_not_put_in() -> None:
    made = seam("one", extra="x")
    (chunk,) = heard(made, b'data: {"id":"second","choices":[]}\n\n').chunks
    assert chunk == {"id": "first", "choices": []}


@pytest.mark.parametrize("other", [b": keep-alive\n\n", DONE, b"event: x\n\n"])
def test_what_is_no_chunk_passes(other: bytes) -> None:
    assert seam("one").convert(other) == other


def test_the_role_is_told_once() -> None:
    made = seam("one")
    said = heard(made, token("", role="assistant"), token(" two", role="assistant"), token(" three"))
    assert [choice["delta"] for choice in said.choices] == [{"content": " two"}, {"content": " three"}]


def test_a_first_chunk_that_also_ends_the_answer_is_not_lost() -> None:
    said = heard(seam("one"), token("", role="assistant", reason="stop"))
    assert said.reasons == ["stop"]
    assert "role" not in said.choices[0]["delta"]


def test_what_is_owed_comes_first() -> None:
    made = seam("one")
    made.owed = b'data: {"choices":[],"owed":1}\n\n'
    said = heard(made, event(choices=[], usage=None), DONE)
    assert [chunk.get("owed") for chunk in said.chunks] == [1, None]


@pytest.mark.parametrize(("kind", "own"), [("chat.completion.chunk", {"delta": {}}), ("text_completion", {"text": ""})])
def test_the_chunk_that_ends_a_text_is_of_the_answers_kind(kind: str, own: dict[str, Any]) -> None:
    ending = seam(object=kind).end("length")
    assert ending.endswith(b"\n\n")
    assert json.loads(ending.removeprefix(b"data: ")) == {
        **HEAD,
        "object": kind,
        "choices": [{"index": 0, "finish_reason": "length", "logprobs": None, **own}],
    }


# Tokens

COUNTS = st.integers(0, 10_000)


@given(prompt=COUNTS, sent=COUNTS, rest=COUNTS, cached=COUNTS)
def test_what_was_sent_is_the_clients_completion_and_no_prompt_of_its(
    prompt: int, sent: int, rest: int, cached: int
) -> None:
    usage = {
        "prompt_tokens": prompt + sent,
        "completion_tokens": rest,
        "total_tokens": prompt + sent + rest,
        "prompt_tokens_details": {"cached_tokens": min(cached, prompt + sent)},
        "completion_tokens_details": None,
    }
    (chunk,) = heard(seam("one", sent), event(choices=[], usage=usage)).chunks
    assert chunk["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": sent + rest,
        "total_tokens": prompt + sent + rest,
        "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
        "completion_tokens_details": None,
    }


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": 1}])
def test_a_usage_with_less_in_it_is_no_less_than_nothing(usage: dict[str, Any]) -> None:
    (chunk,) = heard(seam("one", 3), event(choices=[], usage=usage)).chunks
    assert chunk["usage"] == {"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 3}


def test_of_an_answer_that_was_over_only_the_usage_is_wanted() -> None:
    made = seam("one two", 2, is_over=True)
    usage = {"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 13}
    said = heard(
        made, token("", role="assistant"), token(" three", reason="length"), event(choices=[], usage=usage), DONE
    )
    (chunk,) = said.chunks
    assert chunk["usage"] == {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    assert said.is_done


# Stop strings


def ends(text: str, stop: Sequence[str]) -> tuple[int, int]:
    """Where the first stop string that is complete begins and where it ends; the text's length where there is none."""
    for end in range(1, len(text) + 1):
        begins = [end - len(each) for each in stop if each and text[:end].endswith(each)]
        if begins:
            return min(begins), end
    return len(text), len(text)


def engine(text: str, stop: Sequence[str], sizes: Sequence[int], kind: str) -> list[bytes]:
    """The events of an engine that heeds the stop strings which it can see: those within its own text."""
    begin, _ = ends(text, stop)
    text, pieces = text[:begin], []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    pieces.append(text)
    return [*(token(piece, kind=kind) for piece in pieces if piece), token("", kind=kind, reason="stop"), DONE]


@given(
    text=st.text(LETTERS, max_size=12),
    stop=st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4),
    sizes=st.lists(st.integers(1, 4), max_size=12),
    kind=st.sampled_from(["chat", "text"]),
)
def test_a_stop_string_ends_the_text_wherever_it_was_cut(
    text: str, stop: list[str], sizes: list[int], kind: str
) -> None:
    begin, end = ends(text, stop)
    is_stopped = any(each in text for each in stop)
    for cut in range(end if is_stopped else len(text) + 1):  # the first engine has not seen the end of a stop string
        sent, rest = text[:cut], text[cut:]
        said = heard(seam(sent, 1, tuple(stop)), *engine(rest, stop, sizes, kind))
        whole = sent + said.text
        assert said.reasons == ["stop"]
        assert said.is_done
        if begin >= cut:
            assert whole == text[:begin]
        else:  # a part of it went out before anybody could know
            assert whole.startswith(sent)
            assert text[: end - 1].startswith(whole)
        assert not any(each in whole for each in stop)


def test_an_answer_of_one_letter_events_is_cut_like_one_of_long_events() -> None:
    for size in (1, 2, 50):
        rest = "3 END more END"
        pieces = [rest[place : place + size] for place in range(0, len(rest), size)]
        made = seam("1 2 E", 3, ("ENDE", "E3", "2 E3"))
        said = heard(made, *map(token, pieces))
        assert "E3" not in "E" + said.text
        assert (said.text, said.reasons) == ("", ["stop"])


def test_behind_a_stop_string_across_the_seam_only_the_usage_comes() -> None:
    made = seam("one ST", 2, ("STOP",))
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    events = [token("O"), token("P more"), token(" and more"), token("", reason="length")]
    said = heard(made, *events, event(choices=[], usage=usage), DONE)
    assert (said.text, said.reasons, said.is_done) == ("O", ["stop"], True)
    # The token that completes the stop string counts, as it does in one engine; what came after it does not.
    assert said.chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_a_stop_string_that_the_second_engine_shows_in_full_is_left_to_it() -> None:
    made = seam("one", 1, ("STOP",))
    assert heard(made, token("STOP", reason="stop")).text == "STOP"  # as `include_stop_str_in_output` has it


@pytest.mark.parametrize(
    ("stop", "found"),
    [
        ({}, ()),
        ({"stop": None}, ()),
        ({"stop": []}, ()),
        ({"stop": "a"}, ("a",)),
        ({"stop": ["a", "bé"]}, ("a", "bé")),
        ({"stop": 7}, ()),
        ({"stop": [7]}, ()),
    ],
)
def test_stop_strings_are_read_in_either_form(stop: dict[str, Any], found: tuple[str, ...]) -> None:
    assert stops(raw(**stop)) == found


# What is asked of the second engine


@given(
    limit=st.integers(1, 500), tokens=st.integers(0, 600), name=st.sampled_from(["max_tokens", "max_completion_tokens"])
)
def test_the_limit_loses_the_tokens_that_were_sent(limit: int, tokens: int, name: str) -> None:
    asked = raw(**{name: limit, "seed": 7})
    before = dict(asked)
    found = plain(shortened(asked, tokens))
    assert found == ({name: limit - tokens, "seed": 7} if tokens < limit else None)
    assert asked == before


def test_every_limit_is_shortened_and_what_is_no_number_stays() -> None:
    asked = raw(max_tokens=10, max_completion_tokens=8, min_tokens=5, temperature=0.5)
    assert plain(shortened(asked, 3)) == {
        "max_tokens": 7,
        "max_completion_tokens": 5,
        "min_tokens": 2,
        "temperature": 0.5,
    }
    assert plain(shortened(asked, 6)) == {
        "max_tokens": 4,
        "max_completion_tokens": 2,
        "min_tokens": 0,
        "temperature": 0.5,
    }
    assert shortened(asked, 8) is None
    odd = raw(max_tokens=None, min_tokens="x")
    assert plain(shortened(odd, 3)) == {"max_tokens": None, "min_tokens": "x"}
    assert plain(shortened(raw(seed=1), 1000)) == {"seed": 1}


def test_for_the_usage_alone_one_token_is_asked_for() -> None:
    assert plain(least(raw(seed=1))) == {"seed": 1, "max_tokens": 1, "min_tokens": 0}
    asked = raw(max_completion_tokens=50, min_tokens=9)
    assert plain(least(asked)) == {"max_completion_tokens": 1, "min_tokens": 0}
    both = raw(max_tokens=5, max_completion_tokens=50)
    assert plain(least(both)) == {"max_tokens": 1, "max_completion_tokens": 1, "min_tokens": 0}


FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"n": 2}, "several choices"),
        ({"best_of": 3}, "several choices"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 5}, "logprobs"),
        ({"prompt_logprobs": 1}, "logprobs"),
        ({"echo": True}, "an echoed prompt"),
        ({"suffix": "x"}, "a suffix"),
        ({"use_beam_search": True}, "beam search"),
        ({"guided_json": {"type": "object"}}, "constrained output"),
        ({"guided_regex": "a+"}, "constrained output"),
        ({"guided_choice": ["a"]}, "constrained output"),
        ({"guided_grammar": "x"}, "constrained output"),
        ({"structured_outputs": {"json": {}}}, "constrained output"),
        ({"grammar": "x"}, "constrained output"),
        ({"json_schema": {"a": 1}}, "constrained output"),
        ({"regex": "a"}, "constrained output"),
        ({"ebnf": "a"}, "constrained output"),
        ({"response_format": {"type": "json_object"}}, "constrained output"),
        ({"response_format": FORMAT}, "constrained output"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "a tool choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "a tool choice"),
        ({"include_stop_str_in_output": True, "stop": ["a"]}, "stop strings in the output"),
        ({"no_stop_trim": True}, "stop strings in the output"),
    ],
)
def test_what_binds_the_whole_answer_is_named(fields: dict[str, Any], why: str) -> None:
    assert binding(raw(messages=[], **fields)) == why


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 1, "best_of": 1},
        {"n": None, "best_of": None},
        {"logprobs": False, "top_logprobs": 0, "prompt_logprobs": None, "echo": False},
        {"suffix": "", "guided_json": None, "guided_choice": [], "structured_outputs": {}, "functions": []},
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"tools": [{"type": "function"}], "tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tool_choice": None},
        {"include_stop_str_in_output": False},
        {"temperature": 1, "seed": 3, "stop": ["a"], "max_tokens": 7},
    ],
)
def test_what_binds_nothing_is_not(fields: dict[str, Any]) -> None:
    assert binding(raw(messages=[], **fields)) == ""


@pytest.mark.parametrize("wanted", ["json", {"type": 7}, [1]])
def test_a_format_that_cannot_be_read_is_the_callers_affair(wanted: Any) -> None:
    with pytest.raises(msgspec.DecodeError):
        binding(raw(response_format=wanted))
