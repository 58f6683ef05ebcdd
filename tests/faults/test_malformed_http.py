"""Ten thousand malformed requests over HTTP: everyone gets an answer or a closed connection, nothing grows."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import httpx
import pytest

from tests.conformance.http_cases import cases
from tests.processes import command_line, descendants
from tests.servers import Tritium, serving

REPOSITORY = Path(__file__).parents[1] / "conformance" / "model_repository"
REQUESTS = 10_000
SLACK_BYTES = 24 << 20
SEED = 7


def malformed(chance: random.Random, whole: list[bytes]) -> bytes:
    """A request with bytes of it changed, taken out, doubled or put at the wrong place."""
    request = bytearray(chance.choice(whole))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(request))
        match chance.randrange(4):
            case 0:
                request[place] = chance.randrange(256)
            case 1:
                del request[place : place + chance.randint(1, 40)]
            case 2:
                request[place:place] = request[place : place + chance.randint(1, 40)]
            case _:
                request[place:place] = chance.randbytes(chance.randint(1, 8))
        if not request:
            break
    return bytes(request)


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


def send(address: tuple[str, int], batch: list[bytes]) -> None:
    """Each over a connection of its own, left without reading all of the answer."""
    open_ones = []
    for request in batch:
        client = socket.create_connection(address, timeout=10)
        client.sendall(request)
        open_ones.append(client)
    for client in open_ones:
        client.shutdown(socket.SHUT_WR)
        client.close()


def server_process(server: Tritium) -> int:
    (pid,) = (pid for pid in descendants(server.pid) if "gateway.server" in command_line(pid))
    return pid


def resident_bytes(pid: int) -> int:
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


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
