"""What a worker costs a request: CPU microseconds of the server process's side, the host and the instance.

    python -m tests.bench.worker_cpu [--requests 4000] [--callers 1,4,32] [--elements 16]

One host with one instance of `infer_models/simple`, asked over its socket without HTTP; user and system time apart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from backends.config import ModelConfig
from backends.engine import probe
from backends.errors import ServingError
from backends.model import Endpoint, Endpoints, InferRequest, State
from backends.repository import load
from backends.tensors import Tensor
from backends.worker.client import WorkerModel
from backends.worker.launching import launch
from tests.processes import descendants

HERE = Path(__file__).parent
_TICKS = os.sysconf("SC_CLK_TCK")


class NoModels:
    control = None

    def openai(self, name: str):
        raise NotImplementedError(name)

    def tensor(self, name: str, version: int = 0):
        raise NotImplementedError(name, version)


def cpu(pid: int) -> np.ndarray:
    """User and system seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return np.array([int(fields[11]), int(fields[12])]) / _TICKS


async def ready(address: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if (await probe.get(address, "/health", 1.0, 4096))[0] == 200:
                    return
            except ServingError:
                pass
            await asyncio.sleep(0.02)


async def ask(model: WorkerModel, count: int, inputs: list[Tensor]) -> None:
    for _ in range(count):
        responses = model.infer(InferRequest("simple", inputs))
        async for response in responses:
            assert response.error is None


async def measure(options: argparse.Namespace, config: ModelConfig, address: str, pid: int) -> None:
    await ready(address)
    model = WorkerModel(config, Endpoints((Endpoint("simple", address, State.READY),)), NoModels())
    data = bytes(4 * options.elements)
    inputs = [Tensor(name, "INT32", (1, options.elements), data) for name in ("INPUT0", "INPUT1")]
    await ask(model, 500, inputs)
    processes = {"client": os.getpid(), "host": pid, "instance": descendants(pid)[0]}
    for callers in map(int, options.callers.split(",")):
        before, began = {name: cpu(pid) for name, pid in processes.items()}, time.monotonic()
        await asyncio.gather(*(ask(model, options.requests // callers, inputs) for _ in range(callers)))
        seconds = time.monotonic() - began
        spent = {name: (cpu(pid) - before[name]) / options.requests * 1e6 for name, pid in processes.items()}
        shown = ", ".join(f"{name} {user:.0f} + {system:.0f}" for name, (user, system) in spent.items())
        print(f"{callers:3} callers: {options.requests / seconds:6.0f} requests/s; CPU us a request: {shown}")
    model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of a worker, a request")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--callers", default="1,4,32")
    parser.add_argument("--elements", type=int, default=16)
    options = parser.parse_args()
    config = next(model for model in load([HERE / "infer_models"]) if model.name == "simple")
    assert isinstance(config, ModelConfig)
    with tempfile.TemporaryDirectory() as folder:
        (command,) = launch(config, runtime_dir=folder)
        with subprocess.Popen(command.argv, env=os.environ | dict(command.env)) as process:
            try:
                uvloop.run(measure(options, config, command.address, process.pid))
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
