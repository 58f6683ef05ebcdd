"""One request from its first byte to its last line in the log: what is refused, in which order, and what is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.faults.looking import at_rest, count, engine_of
from tests.faults.talking import CHAT, FAMILIES, MESSAGES, RESPONSES, ask, asking, connection, question, request
from tests.gateway.conftest import KEYS, LIMIT_BYTES
from tests.servers import Tritium
from tests.waiting import eventually

KEY = f"authorization: Bearer {KEYS[0]}"


async def raw(server: Tritium, body: bytes, *headers: str, path: str = CHAT) -> tuple[int, dict[str, Any], str]:
    """The status, the error and the request id that a body gets."""
    async with connection(server.url) as answer:
        answer.writer.write(request(path, body, *headers))
        status = await answer.head()
        return status, json.loads(await answer.rest())["error"], answer.headers["x-request-id"]


@pytest.mark.parametrize("path", FAMILIES)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"a":' * 15_000, "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b'{"model": 5}', "invalid_type"),
        (b'{"model": "echo", "stream": "yes"}', "invalid_type"),
        (b"{}", "missing_required_parameter"),
        (b'{"model": null}', "missing_required_parameter"),
        (b'{"model": ""}', "missing_required_parameter"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_no_request_is_a_400_that_says_why(server: Tritium, path: str, body: bytes, code: str) -> None:
    status, error, request_id = await raw(server, body, path=path)
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", code)
    assert request_id.startswith("req_")


async def test_an_unknown_model_is_a_404_that_names_the_nearest(server: Tritium) -> None:
    status, error, _ = await raw(server, json.dumps(question(model="eco")).encode())
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "Nearest: echo." in error["message"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_a_413_however_it_comes(server: Tritium, chunked: bool) -> None:
    async with connection(server.url) as answer:
        if chunked:
            answer.writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode())
            answer.writer.write((b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 31)
        else:
            answer.writer.write(request(CHAT, b"x" * (LIMIT_BYTES + 1)))
        assert await answer.head() == 413
        error = json.loads(await answer.rest())["error"]
    assert error["code"] == "request_too_large"
    assert str(LIMIT_BYTES) in error["message"]


async def test_a_body_of_the_limit_and_one_in_chunks_are_taken(server: Tritium) -> None:
    body = json.dumps(question()).encode()
    for data in (body + b" " * (LIMIT_BYTES - len(body)), body):
        async with connection(server.url) as answer:
            answer.writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode())
            for start in range(0, len(data), 9_999):
                piece = data[start : start + 9_999]
                answer.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            answer.writer.write(b"0\r\n\r\n")
            assert await answer.head() == 200


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_why_not(server: Tritium) -> None:
    body = json.dumps(question()).encode()
    async with connection(server.url) as answer:
        head = request(CHAT, body, "expect: 100-continue")[: -len(body)]
        answer.writer.write(head)
        assert await answer.head() == 100
        answer.writer.write(body)
        assert await answer.head() == 200
    async with connection(server.url) as answer:
        answer.writer.write(request(CHAT, b"", "expect: 100-continue").replace(b": 0\r\n", b": 999999\r\n"))
        assert await answer.head() == 413


async def test_a_compressed_body_is_refused_by_name(server: Tritium) -> None:
    status, error, _ = await raw(server, b"\x1f\x8b", "content-encoding: gzip")
    assert status == 400
    assert "gzip" in error["message"]


async def test_another_method_is_a_405_in_the_envelope(server: Tritium) -> None:
    async with connection(server.url) as answer:
        answer.writer.write(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % CHAT.encode())
        assert await answer.head() == 405
        assert json.loads(await answer.rest())["error"]["code"] == "method_not_allowed"


async def test_a_key_is_asked_for_before_anything_else_is_read(locked: Tritium) -> None:
    for headers in ((), ("authorization: Bearer wrong",), ("x-api-key: wrong",)):
        status, error, _ = await raw(locked, b"not even JSON", *headers)
        assert (status, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    async with connection(locked.url) as answer:  # nor is its body waited for
        answer.writer.write(request(CHAT, b"x" * 1000)[:200])
        assert await answer.head() == 401


@pytest.mark.parametrize("header", [KEY, f"Authorization: bearer  {KEYS[0]}", f"X-Api-Key: {KEYS[1]}"])
async def test_a_known_key_lets_in_and_goes_no_further(locked: Tritium, header: str) -> None:
    with engine_of(locked) as engine:
        answer, _ = await ask(locked.url, question(), CHAT, header)
        assert answer.status == 200
        assert not {"authorization", "x-api-key"} & {name for name, _ in engine.stats()["last"]["headers"]}


async def test_every_end_is_counted_once_by_model_endpoint_and_status(server: Tritium) -> None:
    def now(**labels: str) -> float:
        at_rest(server)
        return count(server, "requests_total", **labels)

    cases: list[tuple[dict[str, Any], str, dict[str, str]]] = [
        (question(), CHAT, {"endpoint": "chat_completions", "status": "200", "model": "echo"}),
        (question(RESPONSES, stream=True), RESPONSES, {"endpoint": "responses", "status": "200", "model": "echo"}),
        (question(MESSAGES, echo={"fault": "500"}), MESSAGES, {"endpoint": "messages", "status": "500"}),
        (question(model="x" * 99), CHAT, {"status": "404", "model": "unknown"}),
        (question(echo={"fault": "refuse"}), CHAT, {"status": "502", "model": "echo"}),
    ]
    for body, path, labels in cases:
        before, all_before = now(**labels), now()
        await ask(server.url, body, path)
        assert (now(**labels) - before, now() - all_before) == (1, 1), labels


async def test_every_request_has_one_line_in_the_log_without_what_it_said(server: Tritium) -> None:
    secret = "do-not-log-me"
    sent = {
        "log-1": question(words=secret, stream=True),
        "log-2": question(words=secret),
        "log-3": question(words=secret, model="nobody"),
        "log-4": question(words=secret, stream=True, echo={"fault": "cut", "after": 1}),
    }
    for request_id, body in sent.items():
        await ask(server.url, body, f"{CHAT}?key={secret}", f"x-request-id: {request_id}", f"x-api-key: {secret}")
    async with asking(server.url, question(stream=True, echo={"itl_ms": 9000}), CHAT, "x-request-id: log-5") as answer:
        await answer.head()
        await answer.event()

    def logged() -> list[str]:
        return [line for line in server.output().splitlines() if '"log-' in line]

    eventually(lambda: len(logged()) == 5)
    found = logged()
    lines = {line["request_id"]: line for line in map(json.loads, found)}
    assert secret not in "".join(found)
    told = {key: (line["status"], line["finish"], line["stream"]) for key, line in lines.items()}
    assert told == {
        "log-1": (200, "done", True),
        "log-2": (200, "done", False),
        "log-3": (404, "model_not_found", False),
        "log-4": (200, "upstream_error", True),
        "log-5": (200, "disconnect", True),
    }
    assert lines["log-1"]["completion_tokens"] > 0
    assert lines["log-1"]["ttft_ms"] > 0
