"""Samples of a warm-up are requests as clients send them, checked as these are; the instance is a stand-in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.config import ModelConfig
from backends.tensors import Tensor
from backends.worker.hosting.counters import Counters
from backends.worker.hosting.warmup import Warming, WarmupFailed, warm_up
from backends.worker.messages import Execute, Executed

DECLARED = {"name": "I", "data_type": "TYPE_FP32", "dims": [4]}
ZEROS = {"data_type": "TYPE_FP32", "dims": [4], "zero_data": True}
REQUEST = "[request id: <id_unknown>]"


class Instance:
    """Runs whatever it is sent, and keeps the tensors of each batch."""

    def __init__(self) -> None:
        self.link = self
        self.warming: Warming | None = None
        self.batches: list[list[Tensor]] = []

    def send(self, message: Execute, tensors: list[Tensor]) -> None:
        assert self.warming is not None
        assert len(message.requests) >= 1
        self.batches.append(tensors)
        self.warming.executed(Executed())

    async def until(self, future: asyncio.Future[Executed]) -> Executed:
        return await future


async def warmed(
    *inputs: dict[str, Any],
    batch_size: int = 1,
    max_batch_size: int = 0,
    declared: dict[str, Any] = DECLARED,
    path: str = "",
) -> list[list[Tensor]]:
    """What the instance got of one sample; each of `inputs` is for the input that its `of` names, `I` without."""
    sample = {
        "name": "w",
        "batch_size": batch_size,
        "inputs": {given.get("of", "I"): {key: given[key] for key in given if key != "of"} for given in inputs},
    }
    fields = {"name": "m", "backend": "python", "path": path, "max_batch_size": max_batch_size}
    config = msgspec.convert(fields | {"input": [declared], "model_warmup": [sample]}, ModelConfig)
    instance = Instance()
    await warm_up(instance, config, Counters())
    return instance.batches


async def test_a_sample_of_no_batch_is_not_run() -> None:
    assert await warmed(ZEROS | {"dims": [7]}, batch_size=0) == []


async def test_a_sample_has_the_shape_that_the_model_sees() -> None:
    ((tensor,),) = await warmed(ZEROS, declared=DECLARED | {"reshape": {"shape": [2, 2]}})
    assert (tensor.shape, tensor.size_bytes) == ((2, 2), 16)


async def test_a_batch_is_so_many_requests() -> None:
    (batch,) = await warmed(ZEROS, batch_size=3, max_batch_size=4)
    assert [tensor.shape for tensor in batch] == [(1, 4)] * 3


async def test_of_a_file_as_much_is_taken_as_the_input_has(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "data").write_bytes(bytes(range(20)))
    from_file = {"data_type": "TYPE_FP32", "dims": [4], "input_data_file": "/data"}
    ((tensor,),) = await warmed(from_file, path=str(tmp_path / "1"))
    assert bytes(tensor.data) == bytes(range(16))
    with pytest.raises(WarmupFailed, match="expects 24 bytes, but the data provided from /data only has 20 bytes"):
        await warmed(from_file | {"dims": [6]}, path=str(tmp_path / "1"))


async def test_inputs_that_the_model_has_not_are_left_out() -> None:
    ((tensor,),) = await warmed(ZEROS, {"of": "X", "dims": [1]})
    assert tensor.name == "I"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([ZEROS | {"dims": [-1]}], "warmup setting expects all variable-size dimensions are specified for input 'I'"),
        ([ZEROS | {"dims": [3]}], f"{REQUEST} unexpected shape for input 'I' for model 'm'. Expected [4], got [3]. "),
        (
            [{"data_type": "TYPE_FP32", "dims": [4]}],
            f"{REQUEST} warmup setting expects input 'I' to have input_data_type set",
        ),
        (
            [ZEROS | {"data_type": "TYPE_INVALID"}],
            f"{REQUEST} inference input 'I' data-type is '<invalid>', but model 'm' expects 'FP32'",
        ),
        (
            [],
            (
                f"{REQUEST} expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required "
                "input(s) ['I']. Please provide all required input(s)."
            ),
        ),
    ],
)
async def test_a_sample_that_a_client_could_not_send_fails_the_model(inputs: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(WarmupFailed) as failed:
        await warmed(*inputs)
    assert str(failed.value) == f"Invalid argument: {words}"


@pytest.mark.parametrize(("batch_size", "max_batch_size"), [(2, 0), (5, 4)])
async def test_a_batch_over_the_largest_fails_the_model(batch_size: int, max_batch_size: int) -> None:
    words = f"failed to run warmup sample 'w': batch size {batch_size} for 'm', max allowed is {max_batch_size}"
    with pytest.raises(WarmupFailed, match=words):
        await warmed(ZEROS, batch_size=batch_size, max_batch_size=max_batch_size)
