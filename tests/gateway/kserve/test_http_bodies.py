"""Tensors of any size over HTTP, in chunks, compressed, beyond limits, and those that do not come whole."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib

import pytest

from tests.gateway.kserve.http_client import LARGE_ELEMENTS, SIMPLE, binary, served, until


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
