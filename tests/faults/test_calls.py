"""Models that call models, through a whole gateway: decoupled ones, one from within another, under concurrency."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.processes import command_line, descendants
from tests.servers import Tritium, serving
from tests.waiting import eventually_async

pytestmark = pytest.mark.slow

CLIENTS = 32
ANSWERS = 20

TELLER = """
import threading, time

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.tell, args=(request, request.get_response_sender())).start()

    def tell(self, request, sender):
        first, pause = (int(tensor.as_numpy()[0]) for tensor in request.inputs())
        for number in range(first, first + ANSWERS):
            time.sleep(pause / 1000)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([number], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
"""Answers X, X + 1, X + 2 …, each after PAUSE milliseconds."""

RELAY = """
import threading

class TritonPythonModel:
    def initialize(self, args):
        self.name = {"asker": "teller", "outer": "asker"}[args["model_name"]]

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.relay, args=(request.inputs(), request.get_response_sender())).start()

    def relay(self, inputs, sender):
        asked = pb_utils.InferenceRequest(model_name=self.name, requested_output_names=["Y"], inputs=inputs)
        for response in asked.exec(decoupled=True):
            if response.has_error() or response.output_tensors():
                sender.send(response)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
"""Passes on what another model answers, from a thread of each request."""

SUMMING = """
import asyncio

class TritonPythonModel:
    async def execute(self, requests):
        return await asyncio.gather(*[self.sum(request) for request in requests])

    async def sum(self, request):
        ask = pb_utils.InferenceRequest(model_name="teller", requested_output_names=["Y"], inputs=request.inputs())
        total = 0
        for responses in await asyncio.gather(ask.async_exec(decoupled=True), ask.async_exec(decoupled=True)):
            for response in await asyncio.to_thread(list, responses):
                if response.has_error():
                    return pb_utils.InferenceResponse(error=response.error())
                total += sum(int(tensor.as_numpy()[0]) for tensor in response.output_tensors())
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([total], np.int32))])
"""
"""The sum of what the teller answers, asked twice at once from an event loop."""

CONFIG = """
backend: "python"
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "PAUSE" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    repository = tmp_path_factory.mktemp("models")
    preamble = f"import numpy as np\nimport triton_python_backend_utils as pb_utils\nANSWERS = {ANSWERS}\n"
    decoupled = "model_transaction_policy { decoupled: true }"
    for name, source, rest in (
        ("teller", TELLER, decoupled),
        ("asker", RELAY, decoupled),
        ("outer", RELAY, decoupled),
        ("summing", SUMMING, "instance_group [ { count: 2 kind: KIND_CPU } ]"),
    ):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(CONFIG + rest)
        (repository / name / "1" / "model.py").write_text(preamble + source)
    with serving(repository, "--workers", "2") as tritium:
        yield tritium


@pytest.fixture
async def client(server: Tritium) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        yield http


async def streamed(client: httpx.AsyncClient, model: str, first: int, pause: int = 0) -> list[Any]:
    """What a decoupled model answers: numbers, and errors' texts."""
    body = {"X": first, "PAUSE": pause}
    found = []
    async with client.stream("POST", f"/v2/models/{model}/generate_stream", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                found.append(event.get("Y", event.get("error")))
    return found


async def summed(client: httpx.AsyncClient, first: int) -> int:
    response = await client.post("/v2/models/summing/generate", json={"X": first, "PAUSE": 1})
    assert response.status_code == 200, response.text
    return int(response.json()["Y"])


def numbers(first: int) -> list[int]:
    return list(range(first, first + ANSWERS))


@pytest.mark.parametrize("model", ["asker", "outer"])
async def test_thirty_two_streams_through_calls_each_get_their_own_answers(
    client: httpx.AsyncClient, model: str
) -> None:
    firsts = [1000 * number for number in range(CLIENTS)]
    found = await asyncio.gather(*(streamed(client, model, first, pause=1) for first in firsts))
    assert found == [numbers(first) for first in firsts]


async def test_thirty_two_requests_sum_what_they_gather_in_event_loops(client: httpx.AsyncClient) -> None:
    firsts = [1000 * number for number in range(CLIENTS)]
    found = await asyncio.gather(*(summed(client, first) for first in firsts))
    assert found == [2 * sum(numbers(first)) for first in firsts]


async def test_killing_the_called_instance_ends_every_call_and_the_next_ones_work(
    server: Tritium, client: httpx.AsyncClient
) -> None:
    streams = [asyncio.create_task(streamed(client, "asker", 1000 * number, pause=20)) for number in range(CLIENTS)]
    alone = asyncio.create_task(anext_of(client, 7, pause=20))
    await alone
    os.kill(instance_of(server, "teller"), signal.SIGKILL)
    for number, stream in enumerate(streams):
        *told, last = await stream
        assert told == numbers(1000 * number)[: len(told)]
        assert "instance" in last

    async def works() -> bool:
        return await streamed(client, "asker", 5) == numbers(5)

    await eventually_async(works, what="the model that was killed")


async def anext_of(client: httpx.AsyncClient, first: int, pause: int) -> None:
    """Return once a stream has begun."""
    async with client.stream("POST", "/v2/models/asker/generate_stream", json={"X": first, "PAUSE": pause}) as response:
        async for line in response.aiter_lines():
            if line:
                return


def instance_of(server: Tritium, model: str) -> int:
    """The process id of a model's instance."""
    hosts = [pid for pid in descendants(server.pid) if f"--model {model}" in command_line(pid)]
    return next(pid for host in hosts for pid in descendants(host) if "backends.worker.instance" in command_line(pid))
