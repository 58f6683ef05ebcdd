"""How a `model.py` is imported, completes its configuration, initializes itself and is finalized."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from backends.worker.messages import Completed, Failed, Loaded, Metric, Metrics
from tests.backends.worker.instances import configuration, instance, tensor

X = np.array([[1, 2]], np.int32)

INITIALIZED = """
import json, os, sys

class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.family = pb_utils.MetricFamily(name="n", description="d", kind=pb_utils.MetricFamily.COUNTER)
        self.metric = self.family.Metric(labels={"a": "b"})
        assert sys.argv[1:] == [] and sys.path[0] not in ("", os.getcwd())
        print("to the standard output")
        print("to the standard error", file=sys.stderr)

    def execute(self, requests):
        self.metric.increment(len(requests))
        text = json.dumps(self.args | {"dir": pb_utils.get_model_dir()}).encode()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([text], dtype=object))]) for _ in requests]

    def finalize(self):
        print("finalized")
"""


def test_a_model_that_was_changed_within_a_second_is_the_new_one(tmp_path):
    answers = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([b"old"], object))]) for _ in requests]
"""
    config = configuration(tmp_path, answers)
    file = Path(config.path, "model.py")
    found = []
    for source in (file.read_text(), file.read_text().replace("old", "new")):
        file.write_text(source)
        os.utime(file, (1e9, 1e9))
        with instance() as host:
            assert host.load(config) == Loaded()
            found.append(host.ask(tensor("X", X))[1]["Y"][0])
    assert found == [b"old", b"new"]


def test_a_model_is_initialized_with_tritons_arguments_measures_and_is_finalized(tmp_path):
    config = configuration(tmp_path, INITIALIZED)
    with instance() as host:
        assert host.load(config) == Metrics([Metric("n", "counter", "d", {"a": "b"}, 0)])
        assert host.link.receive()[0] == Loaded()
        _, outputs = host.ask(tensor("X", X))
        assert host.metrics.metrics == [Metric("n", "counter", "d", {"a": "b"}, 1)]
        host.link._socket.close()
        written, _ = host.process.communicate(timeout=20)
    arguments = json.loads(outputs["Y"][0])
    assert arguments == {
        "model_config": config.document,
        "model_instance_kind": "CPU",
        "model_instance_name": "m_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(tmp_path / "m"),
        "model_version": "1",
        "model_name": "m",
        "dir": config.path,
    }
    assert written.splitlines() == ["to the standard output", "to the standard error", "finalized"]
    assert host.process.returncode == 0


COMPLETING = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "X", "data_type": "TYPE_INT32", "dims": [4]})
        config.add_output({"name": "Y", "data_type": "TYPE_INT32", "dims": [4]})
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        config.set_model_transaction_policy({"decoupled": False})
        return config

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
"""


def test_a_model_completes_its_configuration_and_is_asked_by_it(tmp_path):
    config = configuration(tmp_path, COMPLETING, input=[], output=[], max_batch_size=0)
    with instance() as host:
        completed = host.load(config, completes=True)
        assert isinstance(completed, Completed)
        assert host.link.receive()[0] == Loaded()
        assert host.ask(tensor("X", X))[1]["Y"].tolist() == X.tolist()
    assert json.loads(completed.document) == {
        "name": "m",
        "backend": "python",
        "max_batch_size": 4,
        "input": [
            {
                "name": "X",
                "data_type": "TYPE_INT32",
                "format": "FORMAT_NONE",
                "dims": [4],
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
                "is_non_linear_format_io": False,
            }
        ],
        "output": [
            {
                "name": "Y",
                "data_type": "TYPE_INT32",
                "dims": [4],
                "label_filename": "",
                "is_shape_tensor": False,
                "is_non_linear_format_io": False,
            }
        ],
        "dynamic_batching": {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
            "priority_levels": 0,
            "default_priority_level": 0,
            "priority_queue_policy": {},
        },
        "model_transaction_policy": {"decoupled": False},
    }


@pytest.mark.parametrize(
    ("source", "completes", "message"),
    [
        (
            "class TritonPythonModel:\n    execute = 0\n    def initialize(self, _): raise RuntimeError('x')\n",
            False,
            "RuntimeError: x\n\nAt:\n  {file}(6): initialize\n",
        ),
        (
            "raise ValueError('at import')\n",
            False,
            "ValueError: at import\n\nAt:\n  {file}(4): <module>\n  <frozen importlib._bootstrap>(",
        ),
        ("class Other: ...\n", False, "AttributeError: module '1.model' has no attribute 'TritonPythonModel'"),
        (
            "class TritonPythonModel:\n    @staticmethod\n    def auto_complete_config(config): return 3\n",
            True,
            "auto_complete_config function in model 'm' must return a valid pb.ModelConfig object.",
        ),
        (
            "class TritonPythonModel:\n    @staticmethod\n    def auto_complete_config(config): raise KeyError('x')\n",
            True,
            "KeyError: 'x'\n\nAt:\n  {file}(6): auto_complete_config\n",
        ),
        (
            (
                "class TritonPythonModel:\n    @staticmethod\n    def auto_complete_config(config):\n"
                "        config.set_max_batch_size(np.int64(9))\n        return config\n"
            ),
            True,
            "TypeError: Object of type int64 is not JSON serializable\n\nAt:\n",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why_in_tritons_words(tmp_path, source, completes, message):
    config = configuration(tmp_path, source)
    with instance() as host:
        failed = host.load(config, completes=completes)
        assert host.process.wait(10) == 1
    assert isinstance(failed, Failed)
    assert failed.message.startswith(message.format(file=f"{config.path}/model.py"))


def test_a_model_without_its_file_says_where_it_was_looked_for(tmp_path):
    config = configuration(tmp_path, "")
    Path(config.path, "model.py").unlink()
    with instance() as host:
        assert host.load(config).message == f"Python model file not found in '{config.path}/model.py'"


def test_a_model_without_execute_is_loaded_and_fails_what_it_is_asked(tmp_path):
    config = configuration(tmp_path, "class TritonPythonModel: ...\n")
    with instance() as host:
        assert host.load(config) == Loaded()
        respond, _ = host.ask(tensor("X", X))
    assert respond.message == (
        "Failed to process the request(s) for model 'm_0_0', message: Python model"
        f" {config.path}/model.py does not implement `execute` method."
    )
