"""Chat completions: an answer, a stream, and the usage that is the gateway's or the client's."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.backends.simulator.asking import events
from tests.faults.talking import CHAT, question
from tests.servers import Tritium


def test_an_answer_is_the_engines(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=question(CHAT, "hello world"))
    assert answer.json()["choices"][0]["message"]["content"] == "hello world"
    assert answer.json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("options", "has_usage"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": True}}, True),
    ],
)
def test_a_stream_has_usage_where_the_client_asked_for_it(
    options: dict[str, Any], has_usage: bool, http: httpx.Client
) -> None:
    answer = http.post(CHAT, json=question(CHAT, "hello world", stream=True, **options))
    chunks = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert chunks[-1] == "[DONE]"
    assert "".join(choice["delta"].get("content", "") for chunk in chunks[:-1] for choice in chunk["choices"]) == (
        "hello world"
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1] if chunk.get("usage")] == [2] * has_usage
    assert all(chunk["choices"] for chunk in chunks[:-2])
    assert bool(chunks[-2]["choices"]) is not has_usage


@pytest.mark.parametrize("fault", ["cut", "eof", "error-event"])
def test_a_stream_that_breaks_ends_in_an_error_that_the_sdk_raises(fault: str, shared: Tritium) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="echo",
            messages=[{"role": "user", "content": "one two three"}],
            stream=True,
            extra_body={"echo": {"fault": fault, "after": 2}},
        )
        said = []
        with pytest.raises(openai.APIError), stream:
            said.extend(chunk.choices[0].delta.content for chunk in stream)
        assert "".join(part or "" for part in said) == "one two"
