"""KServe over HTTP on real sockets: who leaves cancels, limits and keys hold, large tensors go through whole."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import Keys
from gateway.kserve.dataplane import DataPlane
from gateway.kserve.shared_state import SharedState
from gateway.plane import Plane
from gateway.tenants import read
from tests.gateway.kserve.http_server import listening
from tests.gateway.kserve.tensor_models import Model, plane_of
from tests.waiting import eventually_async

D = list(range(16))
SIMPLE = {"inputs": [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [1, 16], "data": D} for n in (0, 1)]}
LARGE_ELEMENTS = 1 << 20


@asynccontextmanager
async def served(keys: Keys | None = None, **settings: Any) -> AsyncIterator[tuple[Client, Plane, dict[str, Model]]]:
    plane, dataplane, models = plane_of(**settings)
    plane.keys = keys
    async with listening(plane, dataplane) as port:
        yield Client(port), plane, models


class Client:
    """One request a connection, or several over one that is held."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any]:
        """The status and the decoded body."""
        connection = await self.open()
        try:
            await connection.send(path, body, method, **headers)
            status, _, data = await connection.receive()
            return status, json.loads(data) if data else None
        finally:
            connection.close()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if "transfer_encoding" not in headers and "content_length" not in headers:
            lines.append(f"content-length: {len(data)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), fields

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        status, fields = await self.head()
        return status, fields, await self.reader.readexactly(int(fields["content-length"]))

    def close(self) -> None:
        self.writer.close()


async def until(probe: Callable[[], bool]) -> None:
    async def asked() -> bool:
        return probe()

    await eventually_async(asked)


def binary(elements: int) -> tuple[bytes, str]:
    """A request of the identity model with so many random-looking elements, and the length of its JSON."""
    size = elements * 4
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [elements], "parameters": {"binary_data_size": size}}
    wanted = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
    return head + (bytes(range(256)) * (size // 256 + 1))[:size], str(len(head))


async def test_json_goes_in_and_comes_out() -> None:
    async with served() as (client, _, models):
        status, answer = await client.ask("/v2/models/simple/infer", {"id": "7", **SIMPLE})
        assert status == 200
        assert (answer["id"], answer["outputs"][0]["data"]) == ("7", [2 * n for n in D])
        assert models["simple"].requests[0].version == 1


@pytest.mark.parametrize("elements", [16, 100_000, LARGE_ELEMENTS])
async def test_a_tensor_of_any_size_comes_back_whole_and_the_connection_is_good_for_more(elements: int) -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        body, header_bytes = binary(elements)
        for _ in range(2):
            await connection.send("/v2/models/identity/infer", body, inference_header_content_length=header_bytes)
            status, fields, data = await connection.receive()
            assert status == 200
            assert data[int(fields["inference-header-content-length"]) :] == body[int(header_bytes) :]
        await connection.send("/v2/models/simple/infer", SIMPLE)
        assert (await connection.receive())[0] == 200
        connection.close()


async def test_requests_may_be_sent_ahead_of_a_large_one() -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        body, header_bytes = binary(LARGE_ELEMENTS)
        await connection.send("/v2/models/simple/infer", SIMPLE)
        large = connection.send("/v2/models/identity/infer", body, inference_header_content_length=header_bytes)
        sending = asyncio.create_task(large)
        assert (await connection.receive())[0] == 200
        assert (await connection.receive())[0] == 200
        await sending
        connection.close()


async def test_a_large_body_in_chunks_is_joined() -> None:
    async with served() as (client, _, _models):
        body, header_bytes = binary(100_000)
        middle = len(body) // 2
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:middle], body[middle:]))
        connection = await client.open()
        await connection.send(
            "/v2/models/identity/infer",
            pieces + b"0\r\n\r\n",
            transfer_encoding="chunked",
            inference_header_content_length=header_bytes,
        )
        status, _, data = await connection.receive()
        assert status == 200
        assert data.endswith(body[-64:])
        connection.close()


async def test_who_leaves_in_the_middle_of_a_large_body_leaves_nothing_behind() -> None:
    async with served() as (client, plane, models):
        connection = await client.open()
        body, header_bytes = binary(LARGE_ELEMENTS)
        await connection.send(
            "/v2/models/identity/infer",
            body[: len(body) // 2],
            inference_header_content_length=header_bytes,
            content_length=str(len(body)),
        )
        await until(lambda: len(plane.clock.members) == 1)
        connection.close()
        await until(lambda: not plane.clock.members)
        assert models["identity"].requests == []


async def test_a_body_that_does_not_come_is_given_up_at_the_deadline() -> None:
    async with served(request_timeout=0.2) as (client, _, _models):
        connection = await client.open()
        body, header_bytes = binary(LARGE_ELEMENTS)
        await connection.send(
            "/v2/models/identity/infer",
            body[: len(body) // 2],
            inference_header_content_length=header_bytes,
            content_length=str(len(body)),
        )
        assert (await connection.receive())[0] == 504
        connection.writer.write(body[len(body) // 2 :])
        await connection.send("/v2/models/simple/infer", SIMPLE)
        assert (await connection.receive())[0] == 200
        connection.close()


async def test_a_body_over_the_limit_is_413_before_it_comes() -> None:
    async with served(max_body_bytes=1000) as (client, _, _models):
        for path in ("/v2/models/simple/infer", "/v2/models/simple/generate", "/v2/logging"):
            status, answer = await client.ask(path, b"", content_length="1001")
            assert status == 413
            assert "over the limit of 1000 bytes" in answer["error"]


async def test_a_small_body_that_unpacks_to_more_than_the_limit_is_413() -> None:
    async with served(max_body_bytes=1000) as (client, _, _models):
        status, _ = await client.ask("/v2/models/simple/infer", gzip.compress(b" " * 100_000), content_encoding="gzip")
        assert status == 413


@pytest.mark.parametrize("operation", ["generate", "generate_stream"])
async def test_leaving_cancels_the_model(operation: str) -> None:
    async with served() as (client, plane, models):
        connection = await client.open()
        await connection.send(f"/v2/models/repeat/{operation}", {"IN": [5, 0]})
        await until(lambda: len(models["repeat"].requests) == 1)
        if operation == "generate_stream":
            assert (await connection.head())[0] == 200
        connection.close()
        await until(lambda: models["repeat"].ended == 1)
        assert not plane.clock.members


async def test_a_stream_comes_as_it_is_made() -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        await connection.send("/v2/models/repeat/generate_stream", {"id": "s", "IN": [5, 6, -7, 0]})
        status, fields = await connection.head()
        assert (status, fields["content-type"]) == (200, "text/event-stream; charset=utf-8")
        events = []
        while len(events) < 3:
            line = await connection.reader.readline()
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
        assert events[:2] == [{"OUT": out, "id": "s", "model_name": "repeat", "model_version": "1"} for out in (5, 6)]
        assert events[2] == {"error": "negative: -7"}
        connection.close()


async def test_a_request_that_takes_too_long_is_cancelled_and_said_to_be() -> None:
    async with served() as (client, _, models):
        status, answer = await client.ask("/v2/models/repeat/generate", {"IN": [0]}, x_request_timeout_ms="100")
        assert (status, answer) == (504, {"error": "The request did not finish before its deadline."})
        assert models["repeat"].ended == 1


async def test_a_process_that_drains_takes_no_new_work_and_says_so() -> None:
    async with served() as (client, plane, _models):
        plane.draining = True
        connection = await client.open()
        await connection.send("/v2/models/simple/infer", SIMPLE)
        status, fields, data = await connection.receive()
        assert (status, fields["connection"]) == (503, "close")
        assert json.loads(data) == {"error": "The server is shutting down."}
        connection.close()
        assert await client.ask("/v2/health/ready", method="GET") == (400, None)
        assert await client.ask("/v2/health/live", method="GET") == (200, None)


async def test_with_keys_work_and_metadata_want_one_and_probes_do_not(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[tenants.a]\nkeys = ["secret-a"]\nmodels = ["simple"]\n')
    async with served(Keys(read(file))) as (client, _, _models):
        connection = await client.open()
        await connection.send("/v2/models/simple/infer", SIMPLE)
        status, fields, data = await connection.receive()
        assert (status, fields["www-authenticate"]) == (401, "bearer")
        assert json.loads(data)["error"].startswith("No API key was given")
        connection.close()
        assert (await client.ask("/v2/models/simple/config", method="GET"))[0] == 401
        assert (await client.ask("/v2/health/ready", method="GET"))[0] == 200
        key = {"authorization": "Bearer secret-a"}
        assert (await client.ask("/v2/models/simple/infer", SIMPLE, **key))[0] == 200
        assert await client.ask("/v2/models/repeat/generate", {"IN": [5]}, **key) == (
            404,
            {"error": "Request for unknown model: 'repeat' is not found"},
        )
        _, answer = await client.ask("/v2/models/stats", method="GET", **key)
        assert [model["name"] for model in answer["model_stats"]] == ["simple"]


async def test_the_limits_of_a_tenant_hold_for_inferences_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[tenants.a]\nkeys = ["secret-a"]\nrequests_per_minute = 2\n')
    async with served(Keys(read(file))) as (client, _, models):
        key = {"authorization": "Bearer secret-a"}
        assert (await client.ask("/v2/models/simple/infer", SIMPLE, **key))[0] == 200
        assert (await client.ask("/v2/models/simple/infer", {"inputs": []}, **key))[0] == 400
        status, answer = await client.ask("/v2/models/simple/infer", SIMPLE, **key)
        assert status == 429
        assert answer["error"].startswith("Tenant 'a' has reached its limit of 2 requests a minute")
        assert len(models["simple"].requests) == 1


async def test_requests_wait_for_a_permit_of_a_model_that_runs_so_many_at_once() -> None:
    async with served() as (client, plane, models):
        gate = plane.registry.find("repeat").gate
        gate.resize(1)
        first = await client.open()
        await first.send("/v2/models/repeat/generate_stream", {"IN": [5, 0]})
        assert (await first.head())[0] == 200
        waiting = asyncio.create_task(client.ask("/v2/models/repeat/generate", {"IN": [6]}))
        await until(lambda: gate.queued == 1)
        assert len(models["repeat"].requests) == 1
        first.close()
        assert (await waiting)[1]["OUT"] == 6
        await until(lambda: gate.running == 0)


async def test_what_is_logged_follows_the_settings_in_every_process(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.level
    file = tmp_path / "state.json"
    other = DataPlane(plane_of()[0].registry, SharedState(file))
    plane, _, _ = plane_of()
    try:
        async with listening(plane, DataPlane(plane.registry, SharedState(file))) as port:
            await Client(port).ask("/v2/logging", {"log_info": False})
            assert root.level == logging.WARNING
            root.setLevel(before)
            other.follow_log_settings()
            assert root.level == logging.WARNING
    finally:
        root.setLevel(before)


async def test_headers_that_are_named_become_parameters() -> None:
    async with served(http_header_forward_pattern="x-my-.*") as (client, _, models):
        await client.ask("/v2/models/simple/infer", SIMPLE, x_my_one="1", x_other="2", traceparent="00-a-b-01")
        request = models["simple"].requests[0]
        assert request.parameters == {"x-my-one": "1"}
        assert request.traceparent == "00-a-b-01"


async def test_a_method_that_is_not_allowed_is_told_which_are() -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        await connection.send("/v2/logging", method="HEAD")
        status, fields = await connection.head()
        assert (status, fields["allow"]) == (405, "get, post")
        connection.close()
        assert await client.ask("/v2", method="PUT") == (405, {"error": "Method Not Allowed"})


async def test_a_model_that_breaks_is_500_and_breaks_nothing_else() -> None:
    async with served() as (client, _, models):
        await client.ask("/v2/models/simple/infer", SIMPLE)
        models["simple"]._answer = lambda _: 5  # type: ignore[assignment, return-value]  # a fault of ours
        assert await client.ask("/v2/models/simple/infer", SIMPLE) == (
            500,
            {"error": "The gateway failed to serve this request."},
        )
        body, header_bytes = binary(4)
        connection = await client.open()
        await connection.send("/v2/models/identity/infer", body, inference_header_content_length=header_bytes)
        assert (await connection.receive())[0] == 200
        connection.close()


async def test_requests_are_counted_by_model_and_status() -> None:
    async with served() as (client, plane, _models):
        plane.telemetry.know(["simple"])
        await client.ask("/v2/models/simple/infer", SIMPLE)
        await client.ask("/v2/models/simple/infer", {})
        await client.ask("/v2/models/nope/infer", SIMPLE)
        assert plane.telemetry.model("simple").requests == {("infer", 200): 1, ("infer", 500): 1}
        assert plane.telemetry.model("unknown").requests == {("infer", 404): 1}


async def test_probes_are_not_counted() -> None:
    async with served() as (client, plane, _models):
        assert (await client.ask("/v2", method="GET"))[0] == 200
        assert (await client.ask("/v2/models/simple/ready", method="GET"))[0] == 200
        path = f"/v2/models/simple/versions/{2**64}/ready"
        status, answer = await client.ask(path, method="GET")
        assert (status, list(answer)) == (400, ["error"])
        assert plane.telemetry.model("unknown").requests == {}


async def test_the_id_of_a_request_is_returned_with_every_kind_of_answer() -> None:
    async with served() as (client, plane, _models):
        for path, body in [
            ("/v2/models/simple/infer", SIMPLE),
            ("/v2/models/simple/infer", {}),
            ("/v2/models/repeat/generate_stream", {"IN": [5]}),
        ]:
            connection = await client.open()
            await connection.send(path, body, x_request_id="mine")
            assert (await connection.head())[1]["x-request-id"] == "mine"
            connection.close()
        plane.draining = True
        connection = await client.open()
        await connection.send("/v2/models/simple/infer", SIMPLE)
        assert (await connection.head())[1]["x-request-id"].startswith("req_")
        connection.close()


async def test_a_large_compressed_tensor_comes_back_compressed() -> None:
    async with served() as (client, _, _models):
        body, header_bytes = binary(LARGE_ELEMENTS)
        connection = await client.open()
        await connection.send(
            "/v2/models/identity/infer",
            gzip.compress(body, 1),
            content_encoding="gzip",
            accept_encoding="deflate",
            inference_header_content_length=header_bytes,
        )
        status, fields, data = await connection.receive()
        assert (status, fields["content-encoding"]) == (200, "deflate")
        assert zlib.decompress(data).endswith(body[int(header_bytes) :])
        connection.close()


async def test_special_values_are_written_as_triton_writes_them() -> None:
    async with served() as (client, _, _models):
        data = struct.pack("<3f", float("nan"), float("inf"), 0.1)
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}
        head = json.dumps({"inputs": [tensor]}).encode()
        connection = await client.open()
        path = "/v2/models/identity/infer"
        await connection.send(path, head + data, inference_header_content_length=str(len(head)))
        _, _, answer = await connection.receive()
        assert b'"data":[NaN,Infinity,0.10000000149011612]' in answer
        connection.close()
