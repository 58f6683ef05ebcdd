"""Every URL of a server process over real sockets: pages, methods, bodies, keys, and errors in one envelope."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from gateway.app import OPERATIONS
from tests.gateway.conftest import LIMIT_BYTES
from tests.servers import Tritium

CHAT = "/v1/chat/completions"
HOT = [operation.path for operation in OPERATIONS]
COLD = ["/v1/models", "/v1/models/echo", "/health", "/health/live", "/health/ready", "/version", "/openapi.json"]
QUESTION: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hello world"}]}


def failure(answer: httpx.Response, status: int, code: str | None, param: str | None = None) -> str:
    """The message of an error, which must be a whole envelope."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    message: str = body["error"]["message"]
    assert message
    return message


# Pages


def test_the_version_is_the_packages(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": version("tritium")}


def test_health_tells_live_from_ready_and_how_each_model_is(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    states = {"echo": "READY", "twins": "READY", "chatty": "READY", "broken": "FAILED"}
    for path in ("/health", "/health/ready"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "models": states})


def test_the_documentation_works_without_any_other_server(http: httpx.Client) -> None:
    page = http.get("/docs", headers={"host": "evil.example"})
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in re.sub(r'http-equiv|"viewport"', "", page.text)
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text) + re.findall(r"url: '([^']+)'", page.text)
    assert len(links) == 4
    for link in links:
        answer = http.get(urljoin("/docs", link))
        assert answer.status_code == 200, link
        assert answer.content


def test_the_document_has_every_path_there_is(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    stored = {"/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel"}
    own = {"/v1/models", "/v1/models/{name}", "/health", "/health/live", "/health/ready", "/version"}
    files = {"/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content"}
    store = "/v1/vector_stores/{vector_store_id}"
    of_file = {f"{store}/files", f"{store}/files/{{file_id}}", f"{store}/files/{{file_id}}/content"}
    batch = f"{store}/file_batches/{{batch_id}}"
    stores = {"/v1/vector_stores", store, f"{store}/search", *of_file}
    batches = {f"{store}/file_batches", batch, f"{batch}/cancel", f"{batch}/files"}
    told = {f"/admin/{name}" for name in ("endpoints", "queue", "decisions", "models", "reload")}
    admin = {*told, "/admin/models/{name}/{action}"}
    told = {path for path in document["paths"] if not path.startswith("/v2") or path in HOT}
    assert told == {*HOT, *own, *stored, *admin, *files, *stores, *batches}
    assert {"/v2", "/v2/models/{model}/versions/{version}/infer", "/v2/repository/index"} <= set(document["paths"])
    assert set(document["paths"]["/v1/responses/{response_id}"]) == {"get", "delete"}


# Paths and methods


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/chat/completions/", "/v1/images/generations", "/admin/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_is_not_there_is_404_in_the_envelope(method: str, path: str, http: httpx.Client) -> None:
    message = failure(http.request(method, path), 404, "not_found")
    assert f"{method} {path}" in message


@pytest.mark.parametrize("path", ["/", "/v1x", "/metrics", "/v2/", "/v2/nothing", "/v2/models", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_is_not_there_beside_openais_is_404_as_triton_words_it(
    method: str, path: str, http: httpx.Client
) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


@pytest.mark.parametrize("path", ["/admin/decisions?limit=many", "/admin/decisions?limit=0"])
def test_a_parameter_that_is_wrong_is_400_in_the_envelope(path: str, http: httpx.Client) -> None:
    assert failure(http.get(path), 400, None, "limit").startswith("Invalid 'limit': ")


@pytest.mark.parametrize("path", HOT)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_another_method_on_a_hot_path_is_405(method: str, path: str, http: httpx.Client) -> None:
    answer = http.request(method, path)
    assert answer.headers["allow"] == "POST"
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (405, b"")
    else:
        failure(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", COLD[:-1])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_another_method_on_a_cold_path_is_405(method: str, path: str, http: httpx.Client) -> None:
    answer = http.request(method, path)
    failure(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


def test_a_path_with_several_methods_names_them_all(http: httpx.Client) -> None:
    assert http.put("/v1/responses/resp_1").headers["allow"] == "DELETE, GET"
    assert http.get("/v1/responses/resp_1/cancel").headers["allow"] == "POST"


def test_the_connection_is_good_for_more_after_every_kind_of_error(shared: Tritium) -> None:
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(base_url=shared.url, limits=limits) as http:
        ports = set()
        for method, path, body in [
            ("GET", "/v1/nothing", None),
            ("GET", CHAT, None),
            ("POST", CHAT, b"not JSON"),
            ("POST", CHAT, b"x" * (LIMIT_BYTES + 1)),
            ("POST", CHAT, json.dumps(QUESTION).encode()),
        ]:
            answer = http.request(method, path, content=body)
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert answer.status_code == 200
        assert len(ports) == 1


# Request ids


@pytest.mark.parametrize("path", COLD)
def test_a_request_id_is_returned_or_made_on_cold_paths_too(path: str, http: httpx.Client) -> None:
    assert http.get(path, headers={"x-request-id": "mine-7"}).headers.get_list("x-request-id") == ["mine-7"]
    made = [http.get(path).headers["x-request-id"] for _ in range(2)]
    assert all(made)
    assert made[0] != made[1]


# Bodies


@pytest.mark.parametrize("path", HOT)
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[1]", "invalid_type", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model":7}', "invalid_type", "model"),
        (b'{"model":"echo","stream":"yes"}', "invalid_type", "stream"),
        (b'{"model":"echo","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
    ],
)
def test_a_body_that_is_wrong_is_400_and_names_the_field(
    body: bytes, code: str, param: str | None, path: str, http: httpx.Client
) -> None:
    failure(http.post(path, content=body), 400, code, param)


@pytest.mark.parametrize("path", HOT)
def test_an_unknown_model_is_404_with_the_nearest_names(path: str, http: httpx.Client) -> None:
    message = failure(http.post(path, json={"model": "ecko"}), 404, "model_not_found", "model")
    assert "'ecko'" in message
    assert "Nearest: echo" in message


@pytest.mark.parametrize("path", [path for path in HOT if path != CHAT])
def test_an_operation_that_a_model_does_not_offer_names_those_it_does(path: str, http: httpx.Client) -> None:
    message = failure(http.post(path, json={"model": "chatty"}), 400, "unsupported_operation", "model")
    assert message.endswith("it supports: chat.")
    assert http.post(CHAT, json=QUESTION | {"model": "chatty"}).status_code == 200


def test_a_model_that_failed_to_load_is_503_with_the_reason(http: httpx.Client) -> None:
    message = failure(http.post(CHAT, json=QUESTION | {"model": "broken"}), 503, "model_not_ready")
    assert "'speed'" in message


def test_a_body_over_the_limit_is_413_with_the_limit_however_it_comes(http: httpx.Client) -> None:
    large = b'{"model":"echo","x":"' + b"x" * LIMIT_BYTES + b'"}'
    whole = http.post(CHAT, content=large)
    in_chunks = http.post(CHAT, content=iter([large[:1000], large[1000:]]))
    for answer in (whole, in_chunks):
        assert str(LIMIT_BYTES) in failure(answer, 413, "request_too_large")


def test_a_body_at_the_limit_passes(http: httpx.Client) -> None:
    body = json.dumps(QUESTION | {"user": ""}).encode()
    body = body.replace(b'"user": ""', b'"user": "%b"' % (b"x" * (LIMIT_BYTES - len(body))))
    assert len(body) == LIMIT_BYTES
    assert http.post(CHAT, content=body).status_code == 200


def test_an_upload_in_chunks_is_put_together(http: httpx.Client) -> None:
    body = json.dumps(QUESTION).encode()
    answer = http.post(CHAT, content=(body[at : at + 7] for at in range(0, len(body), 7)))
    assert answer.json()["choices"][0]["message"]["content"] == "hello world"


def test_a_compressed_body_is_refused(http: httpx.Client) -> None:
    compressed = gzip.compress(json.dumps(QUESTION).encode())
    answer = http.post(CHAT, content=compressed, headers={"content-encoding": "gzip"})
    assert "gzip" in failure(answer, 400, None)


def test_a_query_and_an_escaped_path_reach_the_same_operation(http: httpx.Client) -> None:
    for path in (f"{CHAT}?beta=true", "/v1/chat%2Fcompletions"):
        assert http.post(path, json=QUESTION).status_code == 200


@contextmanager
def connected(server: Tritium) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as sock:
        yield sock


def head_of(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return head


def upload(length: int, *fields: str) -> bytes:
    return "\r\n".join([f"POST {CHAT} HTTP/1.1", "host: x", f"content-length: {length}", *fields, "", ""]).encode()


def test_who_asks_before_sending_a_body_is_told_to_go_on(shared: Tritium) -> None:
    body = json.dumps(QUESTION).encode()
    with connected(shared) as sock:
        sock.sendall(upload(len(body), "expect: 100-continue"))
        assert head_of(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert head_of(sock).startswith(b"HTTP/1.1 200 ")


def test_who_asks_before_sending_too_much_is_spared_it(shared: Tritium) -> None:
    with connected(shared) as sock:
        sock.sendall(upload(LIMIT_BYTES + 1, "expect: 100-continue"))
        assert head_of(sock).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_everything_before_it_reads_still_gets_the_413(shared: Tritium) -> None:
    with connected(shared) as sock:
        sock.sendall(upload(LIMIT_BYTES * 20) + b"x" * LIMIT_BYTES * 20)
        assert head_of(sock).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_within_its_upload_disturbs_nobody(shared: Tritium, http: httpx.Client) -> None:
    with connected(shared) as sock:
        sock.sendall(upload(1000) + b'{"model":')
    assert http.post(CHAT, json=QUESTION).status_code == 200


# Keys

STORED = [("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1"), ("POST", "/v1/responses/resp_1/cancel")]
GUARDED = [("GET", "/v1/models"), ("GET", "/v1/models/echo"), *STORED, *(("POST", path) for path in HOT)]
OPEN = ["/health", "/health/live", "/health/ready", "/version", "/docs", "/openapi.json"]


@pytest.fixture(scope="module")
def guarded(locked: Tritium) -> Iterator[httpx.Client]:
    """A client without a key of a server that wants one."""
    with httpx.Client(base_url=locked.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_known_key_nothing_is_told(method: str, path: str, guarded: httpx.Client) -> None:
    for headers in ({}, {"authorization": "Bearer sk-three"}, {"x-api-key": "sk-three"}):
        answer = guarded.request(method, path, headers=headers, content=b"not even JSON" if method == "POST" else None)
        failure(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_every_known_key_opens_every_path(method: str, path: str, guarded: httpx.Client) -> None:
    for headers in ({"authorization": "Bearer sk-one"}, {"x-api-key": "sk-two"}):
        assert guarded.request(method, path, headers=headers).status_code in {200, 400, 404}


@pytest.mark.parametrize("path", OPEN)
def test_health_and_documentation_want_no_key(path: str, guarded: httpx.Client) -> None:
    assert guarded.get(path).status_code == 200


# Metrics


def test_only_models_that_are_served_become_labels(shared: Tritium, http: httpx.Client) -> None:
    for body in (QUESTION | {"model": 'made"up'}, QUESTION | {"model": "echo"}):
        http.post(CHAT, json=body)
    http.post(CHAT, content=b"not JSON")
    text = httpx.get(f"{shared.metrics_url}/metrics").text
    counted = [line for line in text.splitlines() if line.startswith("tritium_requests_total{")]
    labels = {name for line in counted for name in re.findall(r'model="([^"]*)"', line)}
    assert {"echo", "unknown"} <= labels <= {"echo", "twins", "chatty", "broken", "unknown"}
    assert "made" not in text
    endpoints = {name for line in counted for name in re.findall(r'endpoint="([^"]*)"', line)}
    assert endpoints <= {operation.dialect.operation for operation in OPERATIONS}
