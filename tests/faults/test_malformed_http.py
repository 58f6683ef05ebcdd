"""Ten thousand malformed requests over HTTP: everyone gets an answer or a closed connection, nothing grows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import httpx
import pytest

from tests.conformance.http_cases import cases
from tests.faults.breaking import malformed, resident_bytes, send, server_process
from tests.servers import serving

REPOSITORY = Path(__file__).parents[1] / "conformance" / "model_repository"
REQUESTS = 10_000
SLACK_BYTES = 24 << 20
SEED = 7


def requests() -> list[bytes]:
    found = []
    for case in cases():
        if case.path.endswith(("/infer", "/generate", "/generate_stream", "/status", "/setting", "/logging")):
            body = case.body or b""
            fields = "".join(f"{name}: {value}\r\n" for name, value in case.headers.items())
            head = (
                f"{case.method} {case.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{fields}content-length: {len(body)}\r\n\r\n"
            )
            found.append(head.encode() + body)
    return found


@pytest.mark.timeout(400)
def test_ten_thousand_malformed_requests_break_nothing_and_leave_nothing() -> None:
    chance = random.Random(SEED)
    whole = requests()
    with serving(REPOSITORY, "--no-access-log") as server, httpx.Client(base_url=server.url) as http:
        address = ("127.0.0.1", server.http_port)
        child = server_process(server)

        def round_of(count: int) -> None:
            for _ in range(count // 50):
                send(address, [malformed(chance, whole) for _ in range(50)])

        round_of(REQUESTS // 5)
        before = resident_bytes(child)
        round_of(REQUESTS - REQUESTS // 5)
        tensors = [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [1, 16], "data": [1] * 16} for n in (0, 1)]
        answer = http.post("/v2/models/simple/infer", content=json.dumps({"inputs": tensors}))
        assert answer.json()["outputs"][0]["data"] == [2] * 16
        assert server_process(server) == child
        assert resident_bytes(child) - before < SLACK_BYTES
