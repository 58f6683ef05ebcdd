"""gRPC calls over tensor models: statuses, streams, leaving, deadlines, compression, keys, metadata."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from backends.model import InferResponse
from backends.statistics import ModelStatistics
from backends.tensors import Tensor
from gateway.auth import Keys
from gateway.kserve import http2_frames as h2
from gateway.settings import Settings
from tests.conformance.grpc_requests import addsub, floats
from tests.conformance.grpc_requests import infer as request_of
from tests.gateway.kserve.grpc_server import DECOMPRESSED_BYTES, Served, grpc_served
from tests.gateway.kserve.raw_http2 import Raw
from tests.gateway.kserve.tensor_models import identity_request
from tests.processes import holds

SERVICE = "/inference.GRPCInferenceService"


def repeat(*values: int, id: str = "r") -> Any:
    request = pb.ModelInferRequest(model_name="repeat", id=id)
    request.inputs.add(name="IN", datatype="INT32", shape=(len(values),))
    request.raw_input_contents.append(struct.pack(f"<{len(values)}i", *values))
    return request


def scalar(model: str, value: float, id: str = "n") -> Any:
    return request_of(model, ("INPUT0", "FP32", (1,), floats(value)), id=id)


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    """Connected: what a busy machine takes for that counts towards no deadline."""
    async with grpc.aio.insecure_channel(served.target) as open_channel:
        await open_channel.channel_ready()
        yield open_channel


def infer(channel: grpc.aio.Channel, request: Any = None, **options: Any) -> Any:
    body = addsub().SerializeToString() if request is None else request
    return channel.unary_unary(f"{SERVICE}/ModelInfer")(body, **options)


def stream(channel: grpc.aio.Channel, **options: Any) -> Any:
    return channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(**options)


async def answers(call: Any) -> list[Any]:
    return [pb.ModelStreamInferResponse.FromString(body) async for body in call]


def value(answer: Any) -> int:
    (found,) = struct.unpack("<i", answer.infer_response.raw_output_contents[0])
    return int(found)


async def code(call: Any) -> tuple[str, str]:
    return (await call.code()).name, await call.details()


async def test_an_inference_is_answered(channel: grpc.aio.Channel) -> None:
    answer = pb.ModelInferResponse.FromString(await infer(channel))
    assert (answer.model_name, answer.model_version) == ("simple", "1")
    assert struct.unpack("<16i", answer.raw_output_contents[0]) == tuple(range(1, 17))


async def test_an_error_is_a_status_with_its_text_whatever_its_letters(channel: grpc.aio.Channel) -> None:
    request = addsub("nöpe 100%\n").SerializeToString()
    assert await code(infer(channel, request)) == (
        "NOT_FOUND",
        "Request for unknown model: 'nöpe 100%\n' is not found",
    )


async def test_methods_that_are_not_there_are_unimplemented(channel: grpc.aio.Channel) -> None:
    assert await code(channel.unary_unary("/grpc.reflection.v1.ServerReflection/Info")(b"")) == ("UNIMPLEMENTED", "")


async def test_a_unary_call_has_exactly_one_message(channel: grpc.aio.Channel) -> None:
    for messages in ([], [b"", b""]):
        call = channel.stream_unary(f"{SERVICE}/ServerLive")(iter(messages))
        assert (await code(call))[0] == "UNIMPLEMENTED"


async def test_a_large_tensor_comes_and_goes(channel: grpc.aio.Channel) -> None:
    body = identity_request(900_000)
    answer = pb.ModelInferResponse.FromString(await infer(channel, body))
    assert len(answer.raw_output_contents[0]) == 3_600_000


async def test_many_calls_at_once_are_each_given_their_own_answer(channel: grpc.aio.Channel) -> None:
    requests = [addsub(id=str(number)).SerializeToString() for number in range(200)]
    found = await asyncio.gather(*(infer(channel, request) for request in requests))
    assert [pb.ModelInferResponse.FromString(body).id for body in found] == [str(number) for number in range(200)]


async def test_responses_of_a_stream_come_as_they_are_made(channel: grpc.aio.Channel) -> None:
    call = stream(channel)
    await call.write(repeat(1, 2, 0).SerializeToString())
    for expected in (1, 2):
        assert value(pb.ModelStreamInferResponse.FromString(await call.read())) == expected
    call.cancel()


async def test_requests_of_a_stream_do_not_wait_for_each_other(channel: grpc.aio.Channel) -> None:
    call = stream(channel)
    await call.write(repeat(0, id="hangs").SerializeToString())
    await call.write(repeat(7, id="goes").SerializeToString())
    assert pb.ModelStreamInferResponse.FromString(await call.read()).infer_response.id == "goes"
    call.cancel()


async def test_answers_of_which_there_is_one_come_in_the_order_of_their_requests(
    served: Served, channel: grpc.aio.Channel
) -> None:
    call = stream(channel)
    await call.write(scalar("waiter", 0, id="hangs").SerializeToString())
    await call.write(scalar("identity", 1, id="next").SerializeToString())
    await call.write(addsub("nope", id="refused").SerializeToString())
    await holds(lambda: served.models["identity"].ended == 1)
    await call.write(repeat(7, id="decoupled").SerializeToString())
    assert pb.ModelStreamInferResponse.FromString(await call.read()).infer_response.id == "decoupled"
    call.cancel()
    requests = [scalar("waiter", 1, id="a"), addsub("nope", id="b"), scalar("waiter", -1, id="c"), addsub(id="d")]
    call = stream(channel, request_iterator=iter([each.SerializeToString() for each in requests]))
    assert [answer.infer_response.id for answer in await answers(call)] == ["a", "b", "c", "d"]


async def test_the_end_of_a_stream_waits_for_all_answers(channel: grpc.aio.Channel) -> None:
    call = stream(channel, request_iterator=iter([repeat(1, 2).SerializeToString(), repeat(3).SerializeToString()]))
    assert sorted(value(answer) for answer in await answers(call)) == [1, 2, 3]
    assert (await code(call))[0] == "OK"


async def test_a_response_without_outputs_is_written_where_more_may_follow(
    served: Served, channel: grpc.aio.Channel
) -> None:
    async def blank(_request: Any) -> AsyncIterator[InferResponse]:
        yield InferResponse(final=False)
        yield InferResponse()

    served.models["repeat"]._answer = blank
    call = stream(channel, request_iterator=iter([repeat(1).SerializeToString()]))
    (answer,) = await answers(call)
    assert not answer.infer_response.outputs
    assert not answer.infer_response.parameters["triton_final_response"].bool_param


async def test_errors_stand_in_the_stream_which_goes_on(channel: grpc.aio.Channel) -> None:
    requests = [addsub("nope", id="a"), repeat(-5, 6, id="b")]
    call = stream(channel, request_iterator=iter([each.SerializeToString() for each in requests]))
    found = await answers(call)
    assert [(each.error_message, each.infer_response.id) for each in found[:2]] == [
        ("Request for unknown model: 'nope' is not found", "a"),
        ("negative: -5", "b"),
    ]
    assert value(found[2]) == 6


async def test_a_model_s_error_ends_the_stream_of_a_client_that_asks_for_that(
    served: Served, channel: grpc.aio.Channel
) -> None:
    call = stream(channel, metadata=(("triton_grpc_error", "true"),))
    await call.write(repeat(0, id="hangs").SerializeToString())
    await call.write(repeat(1, -5).SerializeToString())
    assert value(pb.ModelStreamInferResponse.FromString(await call.read())) == 1
    assert await code(call) == ("INVALID_ARGUMENT", "negative: -5")
    await holds(lambda: served.models["repeat"].ended == 2)


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_leaving_a_stream_ends_all_its_requests(served: Served, how: str) -> None:
    channel = grpc.aio.insecure_channel(served.target)
    call = stream(channel)
    for _ in range(5):
        await call.write(repeat(1, 0).SerializeToString())
        await call.read()
    if how == "cancel":
        call.cancel()
    await channel.close()
    await holds(lambda: served.models["repeat"].ended == 5)


async def test_a_deadline_that_passes_ends_the_work(served: Served, channel: grpc.aio.Channel) -> None:
    call = stream(channel, timeout=0.5)
    await call.write(repeat(0).SerializeToString())
    assert (await code(call))[0] == "DEADLINE_EXCEEDED"
    await holds(lambda: served.models["repeat"].ended == 1)
    assert served.models["repeat"].requests[0].deadline is not None


async def test_a_reader_that_is_slow_holds_the_model_back(served: Served, channel: grpc.aio.Channel) -> None:
    made = 0

    async def endless(_request: Any) -> AsyncIterator[InferResponse]:
        nonlocal made
        data = bytes(100_000)
        while True:
            made += 1
            yield InferResponse([Tensor("OUT", "INT32", (25_000,), data)], final=False)

    served.models["repeat"]._answer = endless
    call = stream(channel)
    await call.write(repeat(1).SerializeToString())
    await call.read()
    seen = 0
    while seen != made:
        seen = made
        await asyncio.sleep(0.05)
    assert made < 300
    call.cancel()
    await holds(lambda: served.models["repeat"].ended == 1)


async def test_a_model_that_never_pauses_stops_when_its_reader_leaves(served: Served) -> None:
    made = 0

    async def hasty(_request: Any) -> AsyncIterator[InferResponse]:
        nonlocal made
        while made < 1000:
            made += 1
            yield InferResponse([Tensor("OUT", "INT32", (25_000,), bytes(100_000))], final=False)

    served.models["repeat"]._answer = hasty
    raw = await Raw.open(served.port)
    request = repeat(1).SerializeToString()
    raw.call(1, f"{SERVICE}/ModelStreamInfer", b"\0" + len(request).to_bytes(4) + request)
    await raw.expect(h2.DATA)
    # In one turn of the loop it may go on and is told to stop.
    raw.send(h2.window_update(0, 1 << 20) + h2.window_update(1, 1 << 20) + h2.frame(h2.RST_STREAM, 0, 1, bytes(4)))
    await holds(lambda: served.models["repeat"].ended == 1)
    assert made < 20
    await raw.close()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_messages_are_compressed_both_ways(compression: grpc.Compression) -> None:
    async with (
        grpc_served(compression_level=1) as served,
        grpc.aio.insecure_channel(served.target, compression=compression) as channel,
    ):
        answer = pb.ModelInferResponse.FromString(await infer(channel))
        assert struct.unpack("<16i", answer.raw_output_contents[0]) == tuple(range(1, 17))


async def test_a_compressed_message_may_not_become_too_large(served: Served) -> None:
    channel = grpc.aio.insecure_channel(served.target, compression=grpc.Compression.Gzip)
    call = infer(channel, identity_request(DECOMPRESSED_BYTES // 4 + 1))
    assert (await code(call))[0] == "RESOURCE_EXHAUSTED"
    await channel.close()


async def test_work_is_refused_while_the_process_drains(served: Served, channel: grpc.aio.Channel) -> None:
    served.plane.draining = True
    assert (await code(infer(channel)))[0] == "UNAVAILABLE"
    ready = await channel.unary_unary(f"{SERVICE}/ServerReady")(b"")
    assert ready == b""
    assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x02"


async def test_a_key_in_the_metadata_lets_in_where_keys_are_wanted(
    served: Served, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("secret\n")
    served.plane.keys = Keys.read(Settings(model_repository=(tmp_path,), api_key_file=tmp_path / "keys"))
    assert (await code(infer(channel)))[0] == "UNAUTHENTICATED"
    assert (await code(infer(channel, metadata=(("authorization", "Bearer wrong"),))))[0] == "UNAUTHENTICATED"
    assert await infer(channel, metadata=(("authorization", "Bearer secret"),))
    assert await channel.unary_unary(f"{SERVICE}/ServerLive")(b"") == b"\x08\x01"


async def test_metadata_that_is_to_be_forwarded_become_parameters() -> None:
    async with (
        grpc_served(grpc_header_forward_pattern="my-.*") as served,
        grpc.aio.insecure_channel(served.target) as channel,
    ):
        metadata = (("my-one", "1"), ("other", "2"), ("my-bin-bin", b"\xff"), ("traceparent", "00-ab-cd-01"))
        await infer(channel, metadata=metadata)
        request = served.models["simple"].requests[0]
        assert request.parameters == {"my-one": "1"}
        assert request.traceparent == "00-ab-cd-01"


async def test_a_fault_of_ours_is_told_as_such(served: Served, channel: grpc.aio.Channel) -> None:
    async def broken() -> ModelStatistics:
        raise RuntimeError("on purpose")

    served.models["simple"].statistics = broken  # type: ignore[method-assign]
    request = pb.ModelStatisticsRequest(name="simple").SerializeToString()
    call = channel.unary_unary(f"{SERVICE}/ModelStatistics")(request)
    assert await code(call) == ("INTERNAL", "The gateway failed to serve this call.")
    assert await infer(channel)
