"""Inferences that are served without a task: in order, given up as others are, the long way where it must be."""

from __future__ import annotations

import json

import pytest

from backends.errors import Unavailable
from tests.gateway.kserve.http_client import SIMPLE, Connection, D, served, until

WAITS = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [0]}]}
"""A request that the model `waiter` answers when it is told to."""
ENDS = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1]}]}
FAILS = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [-1]}]}
PATH = "/v2/models/waiter/infer"


def request(body: object, head: str = "") -> bytes:
    data = json.dumps(body).encode()
    return f"POST {PATH} HTTP/1.1\r\nhost: here\r\ncontent-length: {len(data)}\r\n{head}\r\n".encode() + data


async def outputs(connection: Connection) -> list[float]:
    status, _, data = await connection.receive()
    assert status == 200
    answer: list[float] = json.loads(data)["outputs"][0]["data"]
    return answer


async def test_a_request_in_pieces_is_answered() -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        whole = request(ENDS)
        for at in range(0, len(whole), 7):
            connection.writer.write(whole[at : at + 7])
            await connection.writer.drain()
        assert await outputs(connection) == [1]
        connection.close()


async def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async with served() as (client, plane, models):
        connection = await client.open()
        connection.writer.write(request(ENDS) + request(FAILS) + request(ENDS))
        assert await outputs(connection) == [1]
        status, _, data = await connection.receive()
        assert (status, json.loads(data)) == (400, {"error": "negative"})
        assert await outputs(connection) == [1]
        assert not plane.clock.members
        assert len(models["waiter"].requests) == 3
        connection.close()


async def test_leaving_cancels_the_model() -> None:
    async with served() as (client, plane, models):
        connection = await client.open()
        await connection.send(PATH, WAITS)
        await until(lambda: len(models["waiter"].requests) == 1)
        connection.close()
        await until(lambda: models["waiter"].ended == 1 and not plane.clock.members)
        assert plane.telemetry.model("waiter").disconnects == {"before_first_byte": 1}


async def test_a_deadline_ends_it_with_504_and_the_connection_is_good_for_more() -> None:
    async with served(request_timeout=0.2) as (client, _, models):
        connection = await client.open()
        await connection.send(PATH, WAITS)
        status, _, data = await connection.receive()
        assert (status, json.loads(data)) == (504, {"error": "The request did not finish before its deadline."})
        assert models["waiter"].ended == 1
        await connection.send(PATH, ENDS)
        assert await outputs(connection) == [1]
        connection.close()


async def test_a_server_that_cannot_wait_any_longer_says_so() -> None:
    async with served() as (client, plane, models):
        connection = await client.open()
        await connection.send(PATH, WAITS)
        await until(lambda: len(plane.clock.members) == 1)
        for member in tuple(plane.clock.members):
            member.interrupt(Unavailable("shutting down"))
        status, _, data = await connection.receive()
        assert (status, json.loads(data)) == (503, {"error": "shutting down"})
        assert models["waiter"].ended == 1
        connection.close()


@pytest.mark.parametrize("head", ["connection: close\r\n", "expect: 100-continue\r\n"])
async def test_what_needs_more_than_a_write_is_answered_all_the_same(head: str) -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        connection.writer.write(request(ENDS, head))
        data = await connection.reader.readuntil(b"]}]}")
        assert b"HTTP/1.1 200 OK" in data
        connection.close()


async def test_a_client_of_http_1_0_is_answered_and_its_connection_closed() -> None:
    async with served() as (client, _, _models):
        connection = await client.open()
        connection.writer.write(request(ENDS).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b'"data":[1.0]' in await connection.reader.read()
        connection.close()
        connection.close()


async def test_a_request_is_counted_and_named_whichever_way_it_went() -> None:
    async with served() as (client, plane, _models):
        for fields in ({}, {"accept_encoding": "identity"}):
            connection = await client.open()
            await connection.send("/v2/models/simple/infer", SIMPLE, x_request_id="mine", **fields)
            status, head, data = await connection.receive()
            assert (status, head["x-request-id"]) == (200, "mine")
            assert json.loads(data)["outputs"][0]["data"] == [2 * n for n in D]
            connection.close()
        assert plane.telemetry.model("simple").requests == {("infer", 200): 2}
        assert plane.telemetry.model("simple").in_flight == 0
