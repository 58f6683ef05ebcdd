"""KServe over HTTP on real sockets: who leaves cancels, streams come as they are made, requests are counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.kserve.dataplane import DataPlane
from gateway.kserve.shared_state import SharedState
from tests.gateway.kserve.http_client import SIMPLE, Client, D, binary, served, until
from tests.gateway.kserve.http_server import listening
from tests.gateway.kserve.tensor_models import plane_of


async def test_json_goes_in_and_comes_out() -> None:
    async with served() as (client, _, models):
        status, answer = await client.ask("/v2/models/simple/infer", {"id": "7", **SIMPLE})
        assert status == 200
        assert (answer["id"], answer["outputs"][0]["data"]) == ("7", [2 * n for n in D])
        assert models["simple"].requests[0].version == 1


@pytest.mark.parametrize("operation", ["generate", "generate_stream"])
async def test_leaving_cancels_the_model(operation: str) -> None:
    async with served() as (client, plane, models):
        connection = await client.open()
        await connection.send(f"/v2/models/repeat/{operation}", {"IN": [5, 0]})
        await until(lambda: len(models["repeat"].requests) == 1)
        if operation == "generate_stream":
            assert (await connection.head())[0] == 200
        connection.close()
        await until(lambda: models["repeat"].ended == 1 and not plane.clock.members)


async def test_a_stream_comes_as_it_is_made() -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        await connection.send("/v2/models/repeat/generate_stream", {"id": "s", "IN": [5, 6, -7, 0]})
        status, fields = await connection.head()
        assert (status, fields["content-type"]) == (200, "text/event-stream; charset=utf-8")
        events: list[Any] = []
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
        # The long way: what comes by the shortcut is from another process, and broken in no such way.
        assert await client.ask("/v2/models/simple/infer", SIMPLE, accept_encoding="identity") == (
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
