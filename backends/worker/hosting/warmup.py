"""Warm-up (`model_warmup`): requests that an instance runs before it gets any of clients."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from backends.config import ModelConfig, Warmup, WarmupInput
from backends.errors import InferenceError
from backends.tensors import DATATYPE_OF_TYPE, ELEMENT_BYTES, Tensor, element_count
from backends.worker.frames import heads
from backends.worker.hosting.counters import Counters
from backends.worker.hosting.tokenization import Tokenization
from backends.worker.link import Link
from backends.worker.messages import Execute, Executed, Infer, Respond
from backends.worker.scheduling.scheduler import Batch, Entry

# Triton's own place for `input_data_file`, beside the version directories.
_FOLDER = "warmup"


class WarmupFailed(Exception):
    """A sample cannot be made, or the model failed on it; the message is worded as Triton words it."""


class Warming:
    """What an instance answers while it warms up."""

    def __init__(self) -> None:
        self.errors = ""
        self.done: asyncio.Future[Executed] = asyncio.get_running_loop().create_future()

    def respond(self, respond: Respond) -> None:
        if respond.error:
            self.errors += f"{respond.message}; "

    def executed(self, executed: Executed) -> None:
        if not self.done.done():
            self.done.set_result(executed)


class Warmed(Protocol):
    """The instance that is warmed up."""

    link: Link
    warming: Warming | None

    async def until(self, future: asyncio.Future[Executed]) -> Executed: ...


async def warm_up(
    instance: Warmed, config: ModelConfig, counters: Counters, tokenization: Tokenization | None = None
) -> None:
    """Run every sample on an instance; they count as Triton counts them. Raises `WarmupFailed`."""
    for sample in config.model_warmup:
        for _ in range(max(1, sample.count)):
            batch = _batch(config, sample, tokenization)
            began_ns = time.monotonic_ns()
            instance.warming = warming = Warming()
            try:
                instance.link.send(Execute(batch.messages), batch.tensors)
                executed = await instance.until(warming.done)
            finally:
                instance.warming = None
            if warming.errors:
                raise WarmupFailed(f"Invalid argument: failed to run warmup sample '{sample.name}': {warming.errors}")
            counters.executed(batch, began_ns, time.monotonic_ns(), executed)


def _batch(config: ModelConfig, sample: Warmup, tokenization: Tokenization | None) -> Batch:
    """So many requests as the sample's batch size says, each of one row."""
    entries = []
    tensors: list[Tensor] = []
    for _ in range(max(1, sample.batch_size)):
        inputs = list(_inputs(config, sample))
        infer = Infer(0, config.name, config.version, "", heads(inputs), [output.name for output in config.output])
        entry = Entry(infer, inputs, 1, time.monotonic_ns())
        try:
            if tokenization is not None:
                tokenization.replace(entry)
        except InferenceError as error:
            raise WarmupFailed(f"failed to run warmup sample '{sample.name}': {error.message}") from error
        entries.append(entry)
        tensors += entry.tensors
    for number, entry in enumerate(entries, 1):
        entry.infer.id = -number
    return Batch(entries, [entry.infer for entry in entries], tensors, len(entries))


def _inputs(config: ModelConfig, sample: Warmup) -> Iterator[Tensor]:
    for name, wanted in sample.inputs.items():
        datatype = DATATYPE_OF_TYPE[wanted.data_type]
        shape = tuple(wanted.dims)
        data = _data(config, wanted, datatype, element_count(shape))
        yield Tensor(name, datatype, (1, *shape) if config.max_batch_size else shape, data)


def _data(config: ModelConfig, wanted: WarmupInput, datatype: str, count: int) -> bytes:
    if wanted.input_data_file:
        file = Path(config.path).parent / _FOLDER / wanted.input_data_file
        try:
            return file.read_bytes()
        except OSError as error:
            raise WarmupFailed(f"Internal: failed to open text file for read {file}: {error.strerror}") from error
    if datatype == "BYTES":
        return bytes(4 * count)  # empty strings: each is its length alone
    if not wanted.random_data:
        return bytes(count * ELEMENT_BYTES[datatype])
    data = os.urandom(count * ELEMENT_BYTES[datatype])
    return bytes(byte & 1 for byte in data) if datatype == "BOOL" else data
