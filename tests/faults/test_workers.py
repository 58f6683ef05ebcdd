"""Workers through a whole gateway: instances and hosts killed under load, readiness that follows, no other hurt."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.processes import alive, command_line, descendants
from tests.servers import Tritium, serving
from tests.waiting import eventually_async

DOUBLING = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.002)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", 2 * pb_utils.get_input_tensor_by_name(request, "X").as_numpy())]
            )
            for request in requests
        ]
"""
CONFIG = """
backend: "python"
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
TWO = "instance_group [ { count: 2 kind: KIND_CPU } ]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    repository = tmp_path_factory.mktemp("models")
    for name, rest in (("one", ""), ("two", TWO), ("other", "")):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(CONFIG + rest)
        (repository / name / "1" / "model.py").write_text(DOUBLING)
    with serving(repository, "--workers", "2") as tritium:
        yield tritium


@pytest.fixture
async def client(server: Tritium) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        yield http


def host_of(server: Tritium, model: str) -> int:
    (pid,) = (pid for pid in descendants(server.pid) if command_line(pid).rstrip().endswith(f"--model {model}")
              and "guard" not in command_line(pid))  # fmt: skip
    return pid


def instances_of(server: Tritium, model: str) -> list[int]:
    return [pid for pid in descendants(host_of(server, model)) if "backends.worker.instance" in command_line(pid)]


class Load:
    """Clients that ask a model again and again until told to stop; what they were answered, by status."""

    def __init__(self, client: httpx.AsyncClient, model: str, callers: int = 8) -> None:
        self.statuses: Counter[int] = Counter()
        self.reasons: set[str] = set()
        self._client = client
        self._model = model
        self._is_over = False
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(callers)]

    async def _run(self, number: int) -> None:
        while not self._is_over:
            status = await self.ask(number)
            if status != 200:
                await asyncio.sleep(0.01)

    async def ask(self, number: int) -> int:
        inputs = [{"name": "X", "datatype": "INT32", "shape": [1], "data": [number]}]
        answer = await self._client.post(f"/v2/models/{self._model}/infer", json={"inputs": inputs})
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            assert answer.json()["outputs"][0]["data"] == [2 * number]
        else:
            self.reasons.add(answer.json()["error"])
        return answer.status_code

    async def answered(self, more: int) -> None:
        """Wait until so many more were answered well."""
        wanted = self.statuses[200] + more

        async def probe() -> bool:
            return self.statuses[200] >= wanted

        await eventually_async(probe, what=f"{more} answers of {self._model} ({self.statuses})")

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)


async def ready(client: httpx.AsyncClient, model: str) -> bool:
    return (await client.get(f"/v2/models/{model}/ready")).status_code == 200


async def test_an_instance_killed_under_load_costs_one_request_and_comes_back(
    server: Tritium, client: httpx.AsyncClient
) -> None:
    load, other = Load(client, "two"), Load(client, "other", 2)
    await load.answered(50)
    victim, survivor = instances_of(server, "two")
    os.kill(victim, signal.SIGKILL)
    await load.answered(200)
    await load.end()
    await other.end()
    assert set(load.statuses) <= {200, 503}
    assert load.statuses[503] <= 1
    assert all("the instance was killed by SIGKILL" in reason for reason in load.reasons)
    assert set(other.statuses) == {200}
    assert alive(survivor)

    async def two() -> bool:
        return len(instances_of(server, "two")) == 2

    await eventually_async(two, what="the second instance")


async def test_readiness_is_down_while_the_only_instance_is(server: Tritium, client: httpx.AsyncClient) -> None:
    load = Load(client, "one")
    await load.answered(20)
    (victim,) = instances_of(server, "one")
    os.kill(victim, signal.SIGKILL)

    async def unready() -> bool:
        return not await ready(client, "one")

    await eventually_async(unready, what="readiness going down")
    await load.answered(100)
    assert await ready(client, "one")
    await load.end()
    assert set(load.statuses) == {200, 503}


async def test_a_host_killed_under_load_is_started_again_with_its_instances(
    server: Tritium, client: httpx.AsyncClient
) -> None:
    load, other = Load(client, "one"), Load(client, "other", 2)
    await load.answered(20)
    host, (instance,) = host_of(server, "one"), instances_of(server, "one")
    os.kill(host, signal.SIGKILL)
    await load.answered(100)
    await load.end()
    await other.end()
    assert host_of(server, "one") != host
    assert set(load.statuses) == {200, 503}
    assert set(other.statuses) == {200}

    async def gone() -> bool:
        return not alive(instance)

    await eventually_async(gone, what="the end of what it left")
