"""Warm-up (`model_warmup`): requests that an instance runs before it gets any of clients."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Protocol

from backends.config import ModelConfig, Warmup, WarmupInput, beside
from backends.errors import InferenceError
from backends.model import InferRequest
from backends.signature import Signature
from backends.tensors import DATATYPE_OF_TYPE, ELEMENT_BYTES, Tensor, element_count
from backends.worker.frames import heads
from backends.worker.hosting.counters import Counters
from backends.worker.hosting.tokenization import Tokenization
from backends.worker.link import Link
from backends.worker.messages import Execute, Executed, Infer, Respond
from backends.worker.scheduling.scheduler import Batch, Entry

# Triton's own place for `input_data_file`, beside the version directories.
_FOLDER = "warmup"
_OF_NO_ID = "[request id: <id_unknown>]"


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
    signature = Signature(config)
    # As Triton: a sample of no batch is none.
    for sample in filter(lambda sample: sample.batch_size, config.model_warmup):
        for _ in range(max(1, sample.count)):
            batch = _batch(config, sample, signature, tokenization)
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


def _batch(config: ModelConfig, sample: Warmup, signature: Signature, tokenization: Tokenization | None) -> Batch:
    """So many requests as the sample's batch size says, each of one row."""
    if sample.batch_size > max(1, config.max_batch_size):
        raise WarmupFailed(
            f"Invalid argument: failed to run warmup sample '{sample.name}': batch size {sample.batch_size} for "
            f"'{config.name}', max allowed is {config.max_batch_size}"
        )
    entries = []
    tensors: list[Tensor] = []
    for _ in range(sample.batch_size):
        inputs = list(_inputs(config, sample))
        try:
            signature.admit(InferRequest(config.name, inputs, sequence_id=1))
        except InferenceError as error:
            raise WarmupFailed(f"Invalid argument: {error.message}") from error
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
    """Those that the model has, as Triton takes them."""
    declared = {tensor.name for tensor in config.input}
    for name, wanted in sample.inputs.items():
        shape = tuple(wanted.dims)
        if any(size < 0 for size in shape):
            raise WarmupFailed(
                "Invalid argument: warmup setting expects all variable-size dimensions are specified for input "
                f"'{name}'"
            )
        if name not in declared:
            continue
        if not wanted.input_data_file and wanted.zero_data is None and wanted.random_data is None:
            raise WarmupFailed(
                f"Invalid argument: {_OF_NO_ID} warmup setting expects input '{name}' to have input_data_type set"
            )
        datatype = DATATYPE_OF_TYPE.get(wanted.data_type, "<invalid>")
        data = _data(config, wanted, datatype, element_count(shape))
        yield Tensor(name, datatype, (1, *shape) if config.max_batch_size else shape, data)


def _data(config: ModelConfig, wanted: WarmupInput, datatype: str, count: int) -> bytes:
    size_bytes = count * ELEMENT_BYTES.get(datatype, 0)
    if wanted.input_data_file:
        file = beside(config, _FOLDER, wanted.input_data_file)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise WarmupFailed(f"Internal: failed to open text file for read {file}: {error.strerror}") from error
        if len(data) < size_bytes:
            raise WarmupFailed(
                f"Invalid argument: {_OF_NO_ID} warmup setting expects {size_bytes} bytes, but the data provided from "
                f"{wanted.input_data_file} only has {len(data)} bytes"
            )
        return data[:size_bytes] if size_bytes else data
    if datatype == "BYTES":
        return bytes(4 * count)  # empty strings: each is its length alone
    if not wanted.random_data:
        return bytes(size_bytes)
    data = os.urandom(size_bytes)
    return bytes(byte & 1 for byte in data) if datatype == "BOOL" else data
