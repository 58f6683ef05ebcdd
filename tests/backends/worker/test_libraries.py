"""A model of texts in a real host and instance, as a server process reaches it: its OpenAI face over its tensors."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from backends.config import read
from backends.errors import Code, InvalidRequest, ModelNotReady
from backends.kinds import find_kind
from backends.model import Endpoints, InferRequest, OpenAIModel, OpenAIRequest, TensorModel
from backends.tensors import Tensor, join
from backends.worker.client import WorkerModel
from tests.backends.worker.hosts import STOP_SECONDS, NoModels, RunningHost, answer
from tests.backends.worker.onnx_files import Node, write
from tests.backends.worker.texts import IDS, config, folder
from tests.servers import ROOT
from tests.waiting import eventually_async

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tritium[onnxruntime]'")

KIND = find_kind("onnxruntime")
LONG = "a " * 5000


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A model whose token vectors are the token's id, twice."""
    made = folder(tmp_path_factory.mktemp("texts"))
    write(
        made / "model.onnx",
        [
            Node("Cast", ["input_ids"], ["x"], {"to": 1}),
            Node("Unsqueeze", ["x", "axes"], ["y"]),
            Node("Concat", ["y", "y"], ["tokens"], {"axis": 2}),
        ],
        {"input_ids": ("int64", ["n", "s"])},
        {"tokens": ("float", ["n", "s", 2])},
        {"axes": np.array([2])},
    )
    return made


@contextmanager
def hosting(told):
    """A host of that model, whether it gets ready or not."""
    (command,) = KIND.launch(told, runtime_dir=str(Path(told.path).parent))
    process = subprocess.Popen(command.argv, env=os.environ | dict(command.env), cwd=ROOT)
    try:
        yield RunningHost(told, command.address, process)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def running(version):
    """Its host. Texts may have 6 tokens."""
    warmup = {
        "name": "w",
        "batch_size": 1,
        "inputs": {"text": {"data_type": "TYPE_STRING", "dims": [1], "zero_data": True}},
    }
    told = config(version, {"normalize": "false", "max_length": "6"}, model_warmup=[warmup])
    with hosting(told) as host:
        status, health = asyncio.run(host.settled())
        assert status == 200, health
        yield host


@pytest.fixture
async def model(running):
    document = json.dumps((await running.get("/config"))[1])
    told = running.config
    completed = read(document, version=told.version, path=told.path, arguments={})
    made = KIND.connect(completed, running.endpoints, NoModels())
    try:

        async def knows():
            return made.ready()

        await eventually_async(knows, what="the connection")
        yield made
    finally:
        made.close()


def text(*rows):
    return InferRequest("m", [Tensor("text", "BYTES", (len(rows), 1), join([row.encode() for row in rows]))])


async def embed(model, given):
    body = json.dumps({"model": "m", "input": given}).encode()
    response = await model.respond(OpenAIRequest("/v1/embeddings", body, "m", False))
    return json.loads(await anext(response.body))


async def test_texts_are_embedded_through_either_protocol(model):
    assert isinstance(model, OpenAIModel)
    assert isinstance(model, TensorModel)
    mean = (IDS["[CLS]"] + IDS["a"] + IDS["b"] + IDS["[SEP]"]) / 4
    found = await embed(model, ["a b", "b a"])
    assert [item["embedding"] for item in found["data"]] == [[mean, mean]] * 2
    assert found["usage"]["prompt_tokens"] == 8
    response = await answer(model, text("a b"))
    assert np.frombuffer(response.outputs[0].data, np.float32).tolist() == [mean, mean]
    assert (response.outputs[0].name, response.outputs[0].shape) == ("embedding", (1, 2))


async def test_long_texts_are_made_tokens_of_beside_the_event_loop(model):
    found = await asyncio.gather(*(embed(model, LONG) for _ in range(4)), embed(model, "a a a a"))
    assert len({json.dumps(answer["data"]) for answer in found}) == 1
    assert found[0]["usage"]["prompt_tokens"] == 6


async def test_leaving_while_tokens_are_made_is_noticed(model):
    responses = model.infer(text(*[LONG] * 64))
    await responses.aclose()
    assert (await embed(model, "a"))["usage"]["prompt_tokens"] == 3

    async def is_over():
        return not any(model.work().values())

    await eventually_async(is_over, what="the end of the work")


@pytest.mark.parametrize("size", [1, 9000])
async def test_a_text_that_is_refused_hurts_no_other(model, size):
    broken = InferRequest("m", [Tensor("text", "BYTES", (1, 1), join([b"\xff" * size]))])
    refused, fine = await asyncio.gather(answer(model, broken), embed(model, "a"))
    assert refused.error.status is Code.INVALID_ARG
    assert "not UTF-8" in refused.error.message
    assert fine["usage"]["prompt_tokens"] == 3


async def test_a_model_without_a_process_is_lacking(version):
    made = KIND.connect(
        config(version, output=[{"name": "e", "data_type": "TYPE_FP32", "dims": [2]}]), Endpoints(), NoModels()
    )
    assert isinstance(made.lacking(), ModelNotReady)
    with pytest.raises(ModelNotReady):
        await embed(made, "a")
    made.close()


def test_a_model_without_texts_has_tensors_alone(version):
    made = KIND.connect(config(version, {"task": ""}), Endpoints(), NoModels())
    assert type(made) is WorkerModel
    assert not made.capabilities


def test_what_is_wrong_about_texts_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(InvalidRequest, match="is no file"):
        KIND.launch(config(tmp_path), runtime_dir=str(tmp_path))
    assert KIND.launch(config(tmp_path, {"task": ""}), runtime_dir=str(tmp_path))


async def test_a_tokenizer_that_cannot_be_read_fails_the_load(tmp_path, version):
    broken = folder(tmp_path, {"tokenizer.json": {"version": "1.0"}})
    (broken / "model.onnx").symlink_to(version / "model.onnx")
    with hosting(config(broken)) as host:
        status, health = await host.settled()
    assert (status, "is no tokenizer" in health["error"]) == (500, True)


async def test_a_warm_up_of_what_is_no_text_fails_the_load(tmp_path, version):
    made = folder(tmp_path)
    (made / "model.onnx").symlink_to(version / "model.onnx")
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "raw").write_bytes(join([b"\xff"]))
    sample = {"data_type": "TYPE_STRING", "dims": [1], "input_data_file": "raw"}
    warmup = [{"name": "w", "batch_size": 1, "inputs": {"text": sample}}]
    with hosting(config(made, model_warmup=warmup)) as host:
        status, health = await host.settled()
    assert status == 500
    assert "failed to run warmup sample 'w': a text is not UTF-8" in health["error"]
