"""Messages: Anthropic's client against an engine that speaks them."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.servers import Tritium

ASKED: Any = {"model": "echo", "max_tokens": 100, "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture
def client(shared: Tritium) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=shared.url, api_key="none", max_retries=0)


def test_an_answer_and_a_stream_say_the_same(client: anthropic.Anthropic) -> None:
    with client:
        whole = client.messages.create(**ASKED)
        with client.messages.stream(**ASKED) as stream:
            streamed = stream.get_final_message()
    assert whole.content[0].text == streamed.content[0].text == "one two three"
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 3


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    with client:
        counted = client.messages.count_tokens(model="echo", messages=ASKED["messages"])
    assert counted.input_tokens > 0


def test_errors_are_raised_by_the_client_before_and_after_the_first_byte(client: anthropic.Anthropic) -> None:
    with client:
        with pytest.raises(anthropic.NotFoundError, match="Nearest"):
            client.messages.create(**ASKED | {"model": "ecko"})
        broken = ASKED | {"extra_body": {"echo": {"fault": "cut", "after": 2}}}
        with (
            pytest.raises(anthropic.APIStatusError, match="before its answer was complete"),
            client.messages.stream(**broken) as stream,
        ):
            stream.until_done()
