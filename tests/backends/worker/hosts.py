"""Real hosts for tests: started on a model that a test wrote, reached as a server process reaches them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from backends.config import ModelConfig
from backends.engine import probe
from backends.errors import ServingError
from backends.model import Endpoint, Endpoints, InferRequest, InferResponse, ModelControl, State, TensorModel
from backends.statistics import ModelStatistics
from backends.tensors import Tensor
from backends.worker.client import WorkerModel
from backends.worker.launching import launch
from backends.worker.options import OPTIONS_VARIABLE, Options
from tests.backends.worker.instances import array, configuration, tensor
from tests.processes import descendants
from tests.servers import ROOT
from tests.waiting import eventually_async

START_SECONDS = 20.0
STOP_SECONDS = 15.0

STEADY = """
import json, os, signal, time

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        does = json.loads(request.parameters())
        x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        if "begun" in does:
            open(does["begun"], "a").write("x")
        while "until" in does and not os.path.exists(does["until"]):
            if request.is_cancelled():
                open(does["begun"] + ".cancelled", "w").close()
                break
            time.sleep(0.002)
        if "die" in does and not os.path.exists(does["die"]):
            open(does["die"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if "fail" in does:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("on purpose", pb_utils.TritonError.NOT_FOUND))
        if "raise" in does:
            raise RuntimeError("boom")
        y = np.full(x.shape, os.getpid(), np.int32) if "pid" in does else x * 2
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("Y", y)])
"""
"""Doubles X. Parameters: `begun` names a file that is written to, `until` one that is waited for, `die` one that says
that it has died once; `fail` answers with an error, `raise` raises, `pid` answers the instance's pid."""


class NoModels:
    """A registry with the models that a test gives it."""

    def __init__(self, **models: TensorModel) -> None:
        self.models = models
        self.control: ModelControl | None = None

    def openai(self, name: str) -> Any:
        raise NotImplementedError(name)

    def tensor(self, name: str, version: int = 0) -> TensorModel:
        del version
        if name not in self.models:
            raise ServingError(f"there is no {name}")
        return self.models[name]


@dataclass
class RunningHost:
    """A host process. `endpoints` are as a snapshot has them."""

    config: ModelConfig
    address: str
    process: subprocess.Popen[bytes]

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints((Endpoint("host", self.address, State.READY),))

    def instances(self) -> list[int]:
        """The pids of its instances."""
        return descendants(self.process.pid)

    def stop(self) -> int:
        """SIGTERM: its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    async def get(self, path: str) -> tuple[int, Any]:
        status, body = await probe.get(self.address, path, 5.0, 1 << 20)
        return status, json.loads(body)

    async def settled(self) -> tuple[int, Any]:
        """Its health once it does not load any more."""

        async def settled() -> tuple[int, Any] | None:
            try:
                answer = await self.get("/health")
            except ServingError:
                return None
            return None if answer[0] == 503 else answer

        found = await eventually_async(settled, seconds=START_SECONDS, what="the host settling")
        assert found is not None
        return found


@contextmanager
def host(
    folder: Path, source: str, options: Options | None = None, env: Mapping[str, str] | None = None, **fields: Any
) -> Iterator[RunningHost]:
    """A host that runs `source` as the model `m`, under the configuration of `instances.document`; not yet ready."""
    config = configuration(folder, source, **fields)
    (command,) = launch(config, runtime_dir=str(folder))
    told = {} if options is None else {OPTIONS_VARIABLE: msgspec.json.encode(options).decode()}
    process = subprocess.Popen(command.argv, env=os.environ | dict(command.env) | told | dict(env or {}), cwd=ROOT)
    try:
        yield RunningHost(config, command.address, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            finally:
                process.kill()
                process.wait()


@asynccontextmanager
async def connected(host: RunningHost, models: NoModels | None = None) -> AsyncIterator[WorkerModel]:
    """The model in front of a host that is ready."""
    status, answer = await host.settled()
    assert status == 200, answer
    model = WorkerModel(host.config, host.endpoints, models or NoModels())
    try:

        async def knows() -> bool:
            return model.connections() != (0, 0) and model.ready()

        await eventually_async(knows, what="the connection")
        yield model
    finally:
        model.close()


def request(*rows: Any, **parameters: Any) -> InferRequest:
    """A request with an input X of these rows (one row [1] without any)."""
    return InferRequest("m", [tensor("X", np.array(rows or [[1]], np.int32))], parameters=parameters)


async def answers(model: TensorModel, asked: InferRequest) -> list[InferResponse]:
    """Every answer to a request."""
    responses = model.infer(asked)
    try:
        return [response async for response in responses]
    finally:
        await responses.aclose()


async def answer(model: TensorModel, asked: InferRequest) -> InferResponse:
    (response,) = await answers(model, asked)
    return response


def values(response: InferResponse, name: str = "Y") -> list[Any]:
    """An output's elements, as nested lists."""
    assert response.error is None, response.error
    (found,) = (output for output in response.outputs if output.name == name)
    listed: list[Any] = array(found).tolist()
    return listed


async def statistics_of(model: TensorModel, claim: Any) -> ModelStatistics:
    """A model's statistics once the claim about them holds: they are counted just after the last answer."""
    told = ModelStatistics()

    async def probe() -> bool:
        nonlocal told
        told = await model.statistics()
        return bool(claim(told))

    await eventually_async(probe, what="the statistics")
    return told


async def appears(file: Path) -> None:
    """Wait until a file is there."""

    async def probe() -> bool:
        return file.exists()

    await eventually_async(probe, what=str(file))


def now() -> float:
    return time.monotonic()


def bytes_tensor(name: str, text: str) -> Tensor:
    data = text.encode()
    return Tensor(name, "BYTES", (1,), len(data).to_bytes(4, "little") + data)
