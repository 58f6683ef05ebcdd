"""What a request may cost, from its body; and what it did, however it ended."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backends.model import Capability
from gateway.access_log import NoLog
from gateway.cost import DEFAULT_OUTPUT_TOKENS, Cost
from gateway.dialect import read_call
from gateway.telemetry import Exchange, Telemetry


def cost(capability: Capability = Capability.CHAT, context: int | None = None, **fields: Any) -> Cost:
    return Cost(read_call(msgspec.json.encode({"model": "m", **fields})), capability, context)


def exchange(chunks: int = 0, prompt: int | None = None, completion: int | None = None) -> Exchange:
    record = Telemetry(dict, NoLog()).begin("chat_completions", "POST", "/", "", None)
    for _ in range(chunks):
        record.chunk()
    record.prompt_tokens, record.completion_tokens = prompt, completion
    return record


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9),
        ({"max_output_tokens": 11}, 11),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": -7, "n": -3}, 0),
    ],
)
def test_the_answers_limit_is_read_under_the_name_of_each_family(fields: dict[str, Any], output: int) -> None:
    made = cost(**fields)
    assert made.output_tokens == output
    assert made.asked_tokens == made.tokens == made.prompt_tokens + output


@pytest.mark.parametrize("limit", [None, "many", 1.5, [], {}])
def test_an_answer_without_a_limit_is_guessed_and_not_held_against_the_client(limit: object) -> None:
    made = cost(max_tokens=limit)
    assert made.output_tokens == DEFAULT_OUTPUT_TOKENS
    assert made.asked_tokens == made.prompt_tokens


def test_a_prompt_is_guessed_from_its_length_up_to_the_context() -> None:
    assert cost(prompt="x" * 4000).prompt_tokens == pytest.approx(1000, rel=0.05)
    assert cost(context=512, prompt="x" * 4000, max_tokens=4000).tokens == 1024


def test_what_makes_no_tokens_costs_its_prompt_and_what_runs_no_model_nothing() -> None:
    embedding = cost(Capability.EMBEDDINGS, input="x" * 400, max_tokens=50)
    assert embedding.output_tokens == 0
    assert embedding.prompt_tokens > 90
    assert cost(Capability.TOKENIZE, prompt="x" * 400).tokens == 0


@pytest.mark.parametrize(
    ("stream", "status", "record", "spent"),
    [
        (True, 200, exchange(30, 10, 20), "10 + 20"),
        (False, 200, exchange(0, 10, 20), "10 + 20"),
        (True, 200, exchange(30, 0, 0), "prompt + 30"),
        (False, 200, exchange(0, 0, 0), "estimate"),
        (False, 200, exchange(), "estimate"),
        (False, 400, exchange(), "nothing"),
        (True, 503, exchange(), "nothing"),
    ],
)
def test_what_was_spent_is_what_is_known_of_it(stream: bool, status: int, record: Exchange, spent: str) -> None:
    made = cost(stream=stream, max_tokens=500)
    assert made.spent is None
    made.count(record, status)
    figures = {"10 + 20": 30, "prompt + 30": made.prompt_tokens + 30, "estimate": made.tokens, "nothing": 0}
    assert made.spent == figures[spent]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_nobody_waited_for_costs_what_may_have_run(stream: bool) -> None:
    made = cost(stream=stream, max_tokens=500)
    made.abandon()
    assert made.spent == (made.prompt_tokens if stream else made.tokens)
