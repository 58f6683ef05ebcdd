"""PyTorch models in an instance of an environment that has PyTorch: this one, or that of the transformers engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.config import read
from backends.worker.messages import Completed, Failed, Loaded
from tests.backends.worker.instances import document, instance, tensor
from tests.servers import ROOT, unavailable

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, torch

class TwoOut(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor):
        if bool((a == 13).any()):
            raise ValueError("unlucky")
        return a + b, a - b

class Words(torch.nn.Module):
    def forward(self, words: list[str]):
        return [word + "!" for word in words]

class Sum(torch.nn.Module):
    def forward(self, x):
        return x.sum(dim=1, keepdim=True), x.to(torch.bfloat16)

folder = sys.argv[1]
torch.jit.script(TwoOut()).save(f"{folder}/two.pt")
torch.jit.script(Words()).save(f"{folder}/words.pt")
batch = torch.export.Dim("batch")
torch.export.save(torch.export.export(Sum(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},)), f"{folder}/model.pt2")
"""


def interpreter() -> str:
    """A Python that has PyTorch."""
    engines = Path(os.environ.get("TRITIUM_ENGINES_DIR") or ROOT / ".engines")
    for python in (sys.executable, str(engines / "transformers" / "bin" / "python")):
        if (
            Path(python).exists()
            and not subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode
        ):
            return python
    return unavailable("no environment has PyTorch: make it with deploy/engines/transformers.sh")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A version directory with models of all kinds, and the Python that made them."""
    python, folder = interpreter(), tmp_path_factory.mktemp("torch") / "1"
    folder.mkdir()
    maker = folder.parent / "make.py"  # TorchScript reads sources
    maker.write_text(SCRIPT)
    made = subprocess.run([python, "-W", "ignore", maker, folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder, python


@pytest.fixture
def start(models):
    """Starts an instance with that Python, and this environment's other packages behind its own."""
    folder, python = models
    site = Path(np.__file__).parents[1]

    def started():
        return instance(python, PYTHONPATH=f"{ROOT}:{site}") if python != sys.executable else instance()

    def configured(**fields):
        base = {"backend": "pytorch", "max_batch_size": 4}
        return read(document("m", **base | fields), version=1, path=str(folder), arguments={})

    return started, configured


def described(*names, data_type="TYPE_FP32", dims=(-1,)):
    return [{"name": name, "data_type": data_type, "dims": list(dims)} for name in names]


def row(name, *values):
    return tensor(name, np.array([values], np.float32))


@pytest.mark.parametrize("inputs", [("a", "b"), ("LEFT__0", "RIGHT__1")])
def test_a_script_is_given_its_arguments_by_their_names_or_their_places(start, inputs):
    started, configured = start
    told = configured(
        default_model_filename="two.pt", input=described(*inputs[::-1]), output=described("MINUS__1", "PLUS__0")
    )
    with started() as host:
        assert host.load(told) == Loaded()
        host.start((row(inputs[0], 5, 6), row(inputs[1], 1, 2)), (row(inputs[1], 9, 9), row(inputs[0], 1, 1)))
        answers = dict(sorted((respond.id, outputs) for respond, outputs in (host.next(), host.next())))
        values = [
            {each.name: np.frombuffer(each.data, "f4").tolist() for each in outputs} for outputs in answers.values()
        ]
        assert values == [{"PLUS__0": [6, 8], "MINUS__1": [4, 4]}, {"PLUS__0": [10, 10], "MINUS__1": [-8, -8]}]
        host.await_end()
        respond, _ = host.ask(row(inputs[0], 13), row(inputs[1], 1))
        assert "PyTorch execute failure" in respond.message
        assert "unlucky" in respond.message


def test_strings_are_lists(start):
    started, configured = start
    words = described("words", data_type="TYPE_STRING", dims=[-1])
    told = configured(
        default_model_filename="words.pt",
        input=words,
        output=described("OUT__0", data_type="TYPE_STRING"),
        max_batch_size=0,
    )
    with started() as host:
        assert host.load(told) == Loaded()
        respond, outputs = host.ask(tensor("words", np.array([b"a", b""], dtype=object)))
    assert not respond.error, respond.message
    assert outputs["OUT__0"].tolist() == [b"a!", b"!"]


def test_an_exported_program_completes_its_configuration(start):
    started, configured = start
    with started() as host:
        answer = host.load(configured(input=[], output=[], max_batch_size=0), completes=True)
        assert isinstance(answer, Completed), answer
        completed = json.loads(answer.document)
        assert host.link.receive()[0] == Loaded()
        host.start([row("x", 1, 2, 4)])
        respond, outputs = host.next()
    assert not respond.error, respond.message
    assert [(each["name"], each["data_type"], each["dims"]) for each in completed["input"] + completed["output"]] == [
        ("x", "TYPE_FP32", [3]),
        ("OUTPUT__0", "TYPE_FP32", [1]),
        ("OUTPUT__1", "TYPE_BF16", [3]),
    ]
    total, halves = outputs
    assert np.frombuffer(total.data, "f4").tolist() == [7]
    assert (halves.datatype, bytes(halves.data)) == (
        "BF16",
        (np.array([1, 2, 4], "f4").view("u4") >> 16).astype("u2").tobytes(),
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"default_model_filename": "two.pt"}, "which are neither its arguments' names nor follow <name>__<index>"),
        ({"default_model_filename": "gone.pt", "input": described("a")}, "unable to find"),
        ({"default_model_filename": "two.pt", "input": [], "output": []}, "must have its inputs and outputs"),
        ({"parameters": {"INTRA_OP_THREAD_COUNT": {"string_value": "x"}}}, "INTRA_OP_THREAD_COUNT is wrong"),
    ],
)
def test_what_is_wrong_fails_the_load(start, fields, words):
    started, configured = start
    with started() as host:
        answer = host.load(configured(**fields))
    assert isinstance(answer, Failed)
    assert words in answer.message
