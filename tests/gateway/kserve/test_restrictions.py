"""Restricted groups of operations, over HTTP and gRPC: who does not send the header is told which one is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from backends.protobuf import service_pb2 as pb
from gateway.kserve.restrictions import restricted, restricted_streams, restricted_unary
from tests.gateway.kserve.grpc_server import grpc_served
from tests.gateway.kserve.http_client import SIMPLE, Client, served

SERVICE = "/inference.GRPCInferenceService"
KEY = {"admin-key": "secret"}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    options = ("model-repository,statistics:Admin-Key=secret", "inference:user-key=x")
    async with served(http_restricted_api=options) as (client, _plane, _models):
        yield client


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    options = ("health,inference:key=secret",)
    async with (
        grpc_served(grpc_restricted_protocol=options) as server,
        grpc.aio.insecure_channel(server.target) as found,
    ):
        yield found


async def test_a_restricted_operation_wants_its_header(client: Client) -> None:
    path = "/v2/models/simple/stats"
    refusal = {"error": "This API is restricted, expecting header 'admin-key'"}
    assert await client.ask(path, method="GET") == (403, refusal)
    assert await client.ask(path, method="GET", **{"admin-key": "wrong"}) == (403, refusal)
    assert (await client.ask(path, method="GET", **KEY))[0] == 200
    assert await client.ask("/v2/models/nobody/stats", method="GET") == (403, refusal)


async def test_operations_of_other_groups_want_theirs_or_none(client: Client) -> None:
    assert (await client.ask("/v2/health/ready", method="GET"))[0] == 200
    assert (await client.ask("/v2/models/simple", method="GET"))[0] == 200
    assert (await client.ask("/v2/models/simple/infer", SIMPLE, **KEY))[0] == 403
    assert (await client.ask("/v2/models/simple/infer", SIMPLE, **{"user-key": "x"}))[0] == 200
    assert (await client.ask("/v2/nonsense", method="GET"))[0] == 404


async def test_who_may_not_infer_may_not_by_the_openai_api_either(client: Client) -> None:
    status, answer = await client.ask("/v1/embeddings", {"model": "simple", "input": "x"})
    assert (status, answer["error"]["message"]) == (403, "This API is restricted, expecting header 'user-key'")
    assert (await client.ask("/v1/models", method="GET", **{"user-key": "x"}))[0] == 200


async def test_a_head_request_is_refused_without_a_body(client: Client) -> None:
    connection = await client.open()
    await connection.send("/v1/models", None, "HEAD")
    head = await connection.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    connection.close()


async def test_a_restricted_call_wants_its_metadata(channel: grpc.aio.Channel) -> None:
    live = channel.unary_unary(f"{SERVICE}/ServerLive")
    for metadata in ((), (("key", "secret"),), (("triton-grpc-protocol-key", "wrong"),)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await live(b"", metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert refused.value.details() == "This protocol is restricted, expecting header 'triton-grpc-protocol-key'"
    answer = pb.ServerLiveResponse.FromString(await live(b"", metadata=(("triton-grpc-protocol-key", "secret"),)))
    assert answer.live
    await channel.unary_unary(f"{SERVICE}/ServerMetadata")(b"")


async def test_a_restricted_stream_ends_at_once(channel: grpc.aio.Channel) -> None:
    assert await channel.stream_stream(f"{SERVICE}/ModelStreamInfer")().code() is grpc.StatusCode.UNAVAILABLE


async def test_where_nothing_is_restricted_nothing_stands_between() -> None:
    async with grpc_served() as server:

        async def app(_scope: object, _receive: object, _send: object) -> None: ...

        async def stream(_call: object) -> None: ...

        assert restricted(app, ()) is app
        unary = server.server._services.unary
        assert restricted_unary(unary, ()) == unary
        assert restricted_streams({"/s/ModelStreamInfer": stream}, ()) == {"/s/ModelStreamInfer": stream}
