"""Completions: text continued, whole and streamed."""

from __future__ import annotations

import httpx

from tests.backends.simulator.asking import events
from tests.faults.talking import COMPLETIONS, question


def test_an_answer_is_the_engines(http: httpx.Client) -> None:
    answer = http.post(COMPLETIONS, json=question(COMPLETIONS, "hello world")).json()
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "hello world")


def test_a_stream_ends_well_and_has_no_usage_that_was_not_asked_for(http: httpx.Client) -> None:
    chunks = events(http.post(COMPLETIONS, json=question(COMPLETIONS, "hello world", stream=True)).text)
    assert chunks[-1] == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == "hello world"


def test_a_stream_that_breaks_is_one_error_event_and_no_end(http: httpx.Client) -> None:
    asked = question(COMPLETIONS, stream=True, echo={"fault": "cut", "after": 1})
    *_, last = events(http.post(COMPLETIONS, json=asked).text)
    assert last["error"]["code"] == "engine_error"
