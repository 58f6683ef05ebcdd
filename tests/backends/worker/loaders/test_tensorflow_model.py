"""SavedModels in an instance of an environment that has TensorFlow: this one, or that which a variable names."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from backends.config import read
from backends.worker.messages import Completed, Failed, Loaded
from tests.backends.worker.instances import document, instance, tensor
from tests.servers import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, tensorflow as tf

class Model(tf.Module):
    def __init__(self):
        self.weight = tf.Variable([[2.0], [3.0]])

    @tf.function(
        input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x"), tf.TensorSpec([None, 1], tf.string, name="s")]
    )
    def serve(self, x, s):
        tf.debugging.assert_less(x, 13.0)
        return {"y": x @ self.weight, "t": tf.strings.join([s, "!"])}

    @tf.function(input_signature=[tf.TensorSpec([3], tf.int64, name="n")])
    def other(self, n):
        return {"m": tf.cast(n, tf.bfloat16)}

model = Model()
tf.saved_model.save(model, f"{sys.argv[1]}/model.savedmodel", {"serving_default": model.serve, "other": model.other})
"""


def interpreter() -> str:
    """A Python that has TensorFlow."""
    for python in (sys.executable, os.environ.get("TRITIUM_TEST_TENSORFLOW", "")):
        if (
            python
            and not subprocess.run([python, "-c", "import tensorflow"], capture_output=True, check=False).returncode
        ):
            return python
    pytest.skip("TRITIUM_TEST_TENSORFLOW names no Python with TensorFlow (pip install tensorflow-cpu)")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts an instance with that Python, and this environment's other packages behind its own."""
    python, folder = interpreter(), tmp_path_factory.mktemp("tensorflow") / "1"
    folder.mkdir()
    maker = folder.parent / "make.py"
    maker.write_text(SCRIPT)
    made = subprocess.run([python, maker, folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr

    def started():
        return instance(python, PYTHONPATH=str(ROOT)) if python != sys.executable else instance()

    def configured(**fields):
        base = {"backend": "tensorflow", "input": [], "output": [], "max_batch_size": 0}
        return read(document("m", **base | fields), version=1, path=str(folder), arguments={})

    return started, configured


def test_a_savedmodel_completes_its_configuration_and_runs_batches(start):
    started, configured = start
    with started() as host:
        answer = host.load(configured(), completes=True)
        assert isinstance(answer, Completed), answer
        completed = json.loads(answer.document)
        assert host.link.receive()[0] == Loaded()
        words = [np.array([[word]], dtype=object) for word in (b"a", b"b")]
        host.start(
            (tensor("x", np.array([[1, 1]], "f4")), tensor("s", words[0])),
            (tensor("x", np.array([[0, 2]], "f4")), tensor("s", words[1])),
        )
        answers = [host.next(), host.next()]
        host.await_end()
        respond, _ = host.ask(tensor("x", np.array([[13, 2]], "f4")), tensor("s", words[0]))
    assert {(each["name"], each["data_type"], *each["dims"]) for each in completed["input"] + completed["output"]} == {
        ("x", "TYPE_FP32", 2),
        ("s", "TYPE_STRING", 1),
        ("y", "TYPE_FP32", 1),
        ("t", "TYPE_STRING", 1),
    }
    assert completed["max_batch_size"] == 4
    found = [{each.name: bytes(each.data) for each in outputs} for _, outputs in answers]
    assert [np.frombuffer(each["y"], "f4").tolist() for each in found] == [[5], [6]]
    assert [each["t"] for each in found] == [b"\x02\x00\x00\x00a!", b"\x02\x00\x00\x00b!"]
    assert respond.message.startswith("TensorFlow execute failure")


def test_another_signature_is_named_by_a_parameter(start):
    started, configured = start
    with started() as host:
        answer = host.load(configured(parameters={"TF_SIGNATURE_DEF": {"string_value": "other"}}), completes=True)
        assert isinstance(answer, Completed), answer
        assert host.link.receive()[0] == Loaded()
        host.start([tensor("n", np.array([1, 2, 4]))])
        _, (halves,) = host.next()
    assert (halves.datatype, halves.shape) == ("BF16", (3,))
    assert bytes(halves.data) == (np.array([1, 2, 4], "f4").view("u4") >> 16).astype("u2").tobytes()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parameters": {"TF_SIGNATURE_DEF": {"string_value": "gone"}}}, "has no signature 'gone', it has: "),
        ({"parameters": {"TF_GRAPH_TAG": {"string_value": "gone"}}}, "unable to load SavedModel"),
        ({"platform": "tensorflow_graphdef"}, "is a GraphDef, which is not served"),
    ],
)
def test_what_is_wrong_fails_the_load(start, fields, words):
    started, configured = start
    with started() as host:
        answer = host.load(configured(**fields))
    assert isinstance(answer, Failed)
    assert words in answer.message
