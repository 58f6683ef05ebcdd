"""Whom gRPC's inferences are let in for: tenants' limits, models' permits, and what is counted of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.auth import Keys
from gateway.cost import Cost
from gateway.counters import MemoryCounters
from gateway.quotas import Quotas, Reservation
from gateway.tenants import Tenant, read
from tests.conformance.grpc_requests import addsub
from tests.gateway.kserve.grpc_server import Served, grpc_served
from tests.gateway.kserve.http_client import until
from tests.gateway.kserve.raw_http2 import Raw
from tests.gateway.kserve.tensor_models import identity_request
from tests.gateway.kserve.test_grpc import SERVICE, answers, code, infer, repeat, scalar, stream, value

KEY = (("authorization", "Bearer secret-a"),)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with grpc_served() as open_server:
        yield open_server


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    """Connected: what a busy machine takes for that counts towards no deadline."""
    async with grpc.aio.insecure_channel(served.target) as open_channel:
        await open_channel.channel_ready()
        yield open_channel


def limit(served: Served, folder: Path, limits: str) -> None:
    """From now on there is one tenant, with these limits."""
    file = folder / "keys.toml"
    file.write_text(f'[tenants.a]\nkeys = ["secret-a"]\n{limits}\n')
    served.plane.keys = Keys(read(file))


async def test_the_limits_of_a_tenant_hold_for_inferences(
    served: Served, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    limit(served, tmp_path, "requests_per_minute = 2")
    assert await infer(channel, metadata=KEY)
    without_inputs = pb.ModelInferRequest(model_name="simple").SerializeToString()
    assert (await code(infer(channel, without_inputs, metadata=KEY)))[0] == "INVALID_ARGUMENT"
    status, message = await code(infer(channel, metadata=KEY))
    assert status == "RESOURCE_EXHAUSTED"
    assert message.startswith("Tenant 'a' has reached its limit of 2 requests a minute")
    assert len(served.models["simple"].requests) == 1


async def test_the_limits_of_a_tenant_hold_for_each_request_of_a_stream(
    served: Served, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    limit(served, tmp_path, "requests_per_minute = 2")
    requests = [repeat(number, id=str(number)).SerializeToString() for number in (1, 2, 3)]
    found = await answers(stream(channel, request_iterator=iter(requests), metadata=KEY))
    assert sorted(value(answer) for answer in found if not answer.error_message) == [1, 2]
    (refused,) = (answer for answer in found if answer.error_message)
    assert refused.infer_response.id == "3"
    assert refused.error_message.startswith("Tenant 'a' has reached its limit of 2 requests a minute")


async def test_an_inference_waits_for_a_permit_of_a_model_that_runs_so_many_at_once(
    served: Served, channel: grpc.aio.Channel
) -> None:
    gate = served.plane.registry.find("identity").gate
    gate.resize(0)
    waiting = asyncio.create_task(_answered(infer(channel, identity_request(4))))
    await until(lambda: gate.queued == 1)
    assert served.models["identity"].requests == []
    gate.resize(1)
    assert await waiting
    await until(lambda: gate.running == 0)


async def test_who_waits_for_a_permit_holds_up_nothing_else_of_its_stream(
    served: Served, channel: grpc.aio.Channel
) -> None:
    gate = served.plane.registry.find("repeat").gate
    gate.resize(1)
    call = stream(channel)
    await call.write(repeat(5, 0).SerializeToString())
    assert value(pb.ModelStreamInferResponse.FromString(await call.read())) == 5
    await call.write(repeat(6).SerializeToString())
    await call.write(addsub(id="other").SerializeToString())
    assert pb.ModelStreamInferResponse.FromString(await call.read()).infer_response.id == "other"
    assert (gate.running, gate.queued) == (1, 1)
    call.cancel()
    await until(lambda: (gate.running, gate.queued) == (0, 0))
    assert served.models["repeat"].ended == 1


async def test_whose_turn_has_not_come_has_no_permit(served: Served, channel: grpc.aio.Channel) -> None:
    waiter, simple = (served.plane.registry.find(name).gate for name in ("waiter", "simple"))
    waiter.resize(1)
    simple.resize(1)
    first = infer(channel, scalar("waiter", 0).SerializeToString())
    await until(lambda: waiter.running == 1)
    call = stream(channel)
    await call.write(scalar("waiter", 1, id="queued").SerializeToString())
    await call.write(addsub(id="done").SerializeToString())
    await until(lambda: served.models["simple"].ended == 1 and simple.running == 0)
    first.cancel()
    await call.done_writing()
    assert [answer.infer_response.id for answer in await answers(call)] == ["queued", "done"]


async def test_a_full_queue_refuses_at_once(served: Served, channel: grpc.aio.Channel) -> None:
    gate = served.plane.registry.find("simple").gate
    gate.resize(0)
    gate.max_queue_size = 0
    status, message = await code(infer(channel))
    assert status == "UNAVAILABLE"
    assert message.startswith("The model 'simple' is at its limit")
    call = stream(channel, request_iterator=iter([addsub(id="7").SerializeToString()]))
    (answer,) = await answers(call)
    assert (answer.error_message, answer.infer_response.id) == (message, "7")


async def test_leaving_gives_the_permit_back(served: Served, channel: grpc.aio.Channel) -> None:
    gate = served.plane.registry.find("simple").gate
    gate.resize(0)
    call = infer(channel)
    await until(lambda: gate.queued == 1)
    call.cancel()
    await until(lambda: gate.queued == 0)
    assert served.plane.telemetry.model("unknown").disconnects == {"queued": 1}


async def test_waiting_ends_with_the_call_s_deadline_or_the_server_s(served: Served) -> None:
    served.plane.registry.find("simple").gate.resize(0)
    # gRPC's own client leaves at its deadline, which may be counted before the deadline is.
    raw = await Raw.open(served.port)
    request = addsub().SerializeToString()
    raw.call(1, f"{SERVICE}/ModelInfer", b"\0" + len(request).to_bytes(4) + request, (("grpc-timeout", "200m"),))
    _, _, trailers = await raw.answer(1)
    await raw.close()
    assert trailers["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert served.plane.telemetry.model("unknown").requests == {("infer", 504): 1}
    async with grpc_served(request_timeout=0.2) as impatient, grpc.aio.insecure_channel(impatient.target) as other:
        impatient.plane.registry.find("simple").gate.resize(0)
        assert await code(infer(other)) == ("DEADLINE_EXCEEDED", "The request did not finish before its deadline.")
        assert impatient.plane.telemetry.model("unknown").requests == {("infer", 504): 1}


async def test_the_inferences_of_tenants_are_counted_by_model_and_status(
    served: Served, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    limit(served, tmp_path, "requests_per_minute = 4")
    telemetry = served.plane.telemetry
    telemetry.know(["simple", "repeat"])
    await infer(channel, metadata=KEY)
    await code(infer(channel, pb.ModelInferRequest(model_name="simple").SerializeToString(), metadata=KEY))
    async for _ in stream(channel, request_iterator=iter([repeat(1, 2).SerializeToString()]), metadata=KEY):
        pass
    assert telemetry.model("simple").requests == {("infer", 200): 1, ("infer", 400): 1}
    assert telemetry.model("repeat").requests == {("infer", 200): 1}
    assert sum(telemetry.model("repeat").ttft.counts) == 1


async def test_a_model_that_breaks_is_counted_as_our_fault_and_frees_its_permit(
    served: Served, channel: grpc.aio.Channel
) -> None:
    gate = served.plane.registry.find("simple").gate
    gate.resize(1)
    served.models["simple"]._answer = lambda _: 5  # type: ignore[assignment, return-value]  # a fault of ours
    for _ in range(2):
        assert (await code(infer(channel)))[0] == "INTERNAL"
    assert gate.running == 0
    assert served.plane.telemetry.model("unknown").requests == {("infer", 500): 2}


class _SlowForTheFirst(Quotas):
    """Counters that answer the first question last, as those of another machine may."""

    def __init__(self) -> None:
        super().__init__(MemoryCounters(), fails_open=True)
        self.is_answered = asyncio.Event()
        self.asked = 0

    async def reserve(self, tenant: Tenant, cost: Cost) -> Reservation:
        self.asked += 1
        if self.asked == 1:
            await self.is_answered.wait()
        return await super().reserve(tenant, cost)


async def test_requests_of_sequences_are_begun_in_their_order(
    served: Served, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    limit(served, tmp_path, "requests_per_minute = 9")
    served.plane.quotas = quotas = _SlowForTheFirst()
    call = stream(channel, metadata=KEY)
    for number, model in enumerate(("sequence", "sequence", "identity")):
        request = pb.ModelInferRequest.FromString(identity_request(4))
        request.model_name, request.id = model, str(number)
        request.parameters["sequence_id"].int64_param = 1
        await call.write(request.SerializeToString())
    await until(lambda: len(served.models["identity"].requests) == 1)
    quotas.is_answered.set()
    await call.done_writing()
    assert [answer.infer_response.id for answer in await answers(call)] == ["0", "1", "2"]
    assert [request.id for request in served.models["sequence"].requests] == ["0", "1"]


async def _answered(call: Any) -> bytes:
    body: bytes = await call
    return body
