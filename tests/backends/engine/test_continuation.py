"""The request for the rest of an answer: what is added in each way, and what is not asked for."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.engine.continuation import Fields, Way, by_flag, by_prefill, continued, limited

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ASKED = {"role": "user", "content": "Count."}
BEGUN = {"role": "assistant", "content": "One, "}
FLAGS = {"add_generation_prompt": False, "continue_final_message": True}


def raw(**fields: Any) -> Fields:
    return {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in fields.items()}


def rest(fields: Fields, path: str = CHAT, text: str = "two", chat: Way | None = by_flag) -> Any:
    found = continued(fields, path, text, chat=chat)
    return None if found is None else json.loads(msgspec.json.encode(found))


def test_the_flag_comes_with_the_answer_so_far_as_the_last_message() -> None:
    answer = {"role": "assistant", "content": 'two "\u00e9'}
    found = rest(raw(messages=[ASKED], seed=7), text='two "\u00e9')
    assert found == {"messages": [ASKED, answer], "seed": 7, **FLAGS}


def test_a_message_that_the_client_itself_continued_grows() -> None:
    named = {**BEGUN, "name": "clerk"}
    found = rest(raw(messages=[ASKED, named], continue_final_message=True, add_generation_prompt=False))
    assert found["messages"] == [ASKED, {**named, "content": "One, two"}]


def test_a_last_answer_that_was_not_continued_stays_a_turn_of_its_own() -> None:
    found = rest(raw(messages=[ASKED, BEGUN]))
    assert found == {"messages": [ASKED, BEGUN, {"role": "assistant", "content": "two"}], **FLAGS}


def test_a_prefill_is_the_last_message_alone() -> None:
    found = rest(raw(messages=[ASKED], seed=7), chat=by_prefill)
    assert found == {"messages": [ASKED, {"role": "assistant", "content": "two"}], "seed": 7}
    found = rest(raw(messages=[ASKED, BEGUN]), chat=by_prefill)
    assert found == {"messages": [ASKED, {"role": "assistant", "content": "One, two"}]}


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": [{"type": "text", "text": "One, "}]},
        {"role": "assistant", "content": "One, ", "tool_calls": [{"id": "1"}]},
        {"role": "assistant"},
    ],
)
def test_a_last_message_that_is_no_mere_text_is_not_prefilled(last: dict[str, Any]) -> None:
    assert rest(raw(messages=[ASKED, last]), chat=by_prefill) is None


@pytest.mark.parametrize("prompt", ["One, ", ["One, "]])
def test_a_text_completion_goes_on_with_a_longer_prompt(prompt: object) -> None:
    for chat in (by_flag, None):
        assert rest(raw(prompt=prompt, seed=7), COMPLETIONS, chat=chat) == {"prompt": "One, two", "seed": 7}


@pytest.mark.parametrize(
    "fields", [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": [[1, 2]]}, {"prompt": "a", "echo": True}, {}]
)
def test_other_prompts_are_not_continued(fields: dict[str, Any]) -> None:
    assert rest(raw(**fields), COMPLETIONS) is None


def test_a_chat_is_not_continued_without_a_way_nor_any_other_path() -> None:
    assert rest(raw(messages=[ASKED]), chat=None) is None
    assert rest(raw(input="Count."), "/v1/responses") is None


@pytest.mark.parametrize("messages", [[], "Count.", [5]])
def test_messages_that_cannot_be_read_are_not_continued(messages: object) -> None:
    assert rest(raw(messages=messages)) is None


def test_an_answer_that_has_not_begun_is_asked_for_once_more_as_it_was() -> None:
    fields = raw(messages=[ASKED])
    assert continued(fields, CHAT, "", chat=by_flag) is fields


def test_a_text_completion_has_sixteen_tokens_where_nobody_says_how_many() -> None:
    for told, limit in ({}, b"16"), ({"max_tokens": None}, b"16"), ({"max_tokens": 7}, b"7"):
        assert bytes(limited(raw(prompt="a", **told), COMPLETIONS)["max_tokens"]) == limit
    assert "max_tokens" not in limited(raw(prompt="a", max_completion_tokens=7), COMPLETIONS)
    assert "max_tokens" not in limited(raw(messages=[ASKED]), CHAT)
