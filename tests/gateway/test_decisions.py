"""The decision log: what is told of a request, and how much is kept."""

from __future__ import annotations

import json
import time
from typing import Any

from backends.model import OpenAIRequest, Route
from gateway.access_log import NoLog
from gateway.decisions import DecisionLog
from gateway.telemetry import Exchange, Telemetry


def exchange() -> Exchange:
    record = Telemetry(dict, NoLog()).begin("chat_completions", "POST", "/v1/chat/completions", "::1", b"req-1")
    record.tenant = "acme"
    record.route("m", stream=True)
    return record


def rendered(log: DecisionLog, limit: int = 10) -> list[dict[str, Any]]:
    return [json.loads(decision) for decision in log.render(limit)]


def test_a_request_is_told_from_its_arrival_to_its_end() -> None:
    log, record = DecisionLog(10), exchange()
    decision = log.begin(record, "alias", b"{}")
    route = Route(policy="prefix", reason="prefix", endpoint="m-1-0")
    decision.took(OpenAIRequest("/", b"", "m", stream=True, route=route))
    record.sent()
    (early,) = rendered(log)
    assert (early["status"], early["outcome"], early["first_token_ms"], early["total_ms"]) == (None, None, None, None)
    route.retries, route.endpoint = 1, "m-1-1"
    route.failures.append("m-1-0: gone")
    record.chunk()
    record.prompt_tokens, record.completion_tokens = 7, 3
    record.done(200)
    (late,) = rendered(log)
    assert late["routes"] == [
        {
            "model": "m",
            "endpoint": "m-1-1",
            "policy": "prefix",
            "reason": "prefix",
            "retries": 1,
            "hedges": 0,
            "resumes": 0,
            "failures": ["m-1-0: gone"],
        }
    ]
    expected = {"request_id": "req-1", "operation": "chat_completions", "tenant": "acme", "asked": "alias"}
    assert late.items() >= {**expected, "status": 200, "outcome": "done", "prompt_tokens": 7}.items()
    assert 0 <= late["sent_ms"] <= late["first_token_ms"] <= late["total_ms"]
    assert abs(late["at"] - time.time()) < 10


def test_a_request_that_was_sent_nowhere_is_told_all_the_same() -> None:
    log = DecisionLog(10)
    log.begin(exchange(), "m", b"{}")
    assert rendered(log)[0]["routes"] == []


def test_only_the_last_ones_are_kept_and_told() -> None:
    log = DecisionLog(3)
    for number in range(5):
        log.begin(exchange(), str(number), b"")
    assert [decision["asked"] for decision in rendered(log)] == ["2", "3", "4"]
    assert [decision["asked"] for decision in rendered(log, 2)] == ["3", "4"]
    assert rendered(log, 0) == []


def test_an_answer_is_never_longer_than_the_channel_bears() -> None:
    log = DecisionLog(1000, prompts=True)
    for number in range(1000):
        log.begin(exchange(), str(number), b"\x01" * 4096)  # six bytes each in JSON
    told = log.render(1000)
    assert 100 < len(told) < 1000
    assert json.loads(told[-1])["asked"] == "999"


def test_prompts_are_kept_only_where_asked_and_only_their_beginning() -> None:
    body = b"\xff" + b"x" * 100_000
    silent, telling = DecisionLog(1), DecisionLog(1, prompts=True)
    for log in (silent, telling):
        log.begin(exchange(), "m", body)
    assert "prompt" not in rendered(silent)[0]
    assert rendered(telling)[0]["prompt"] == "\ufffd" + "x" * 4095
