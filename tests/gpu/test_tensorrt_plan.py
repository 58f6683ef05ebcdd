"""A TensorRT plan in an instance, on this machine's first GPU."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from backends.config import read
from backends.worker.messages import Completed, Failed, Load, Loaded
from tests.backends.worker.instances import document, instance, tensor

tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed: pip install 'tritium[tensorrt]'")

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """Y = X + X, for one to four rows of two."""
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network(0)
    given = network.add_input("X", tensorrt.float32, (-1, 2))
    doubled = network.add_elementwise(given, given, tensorrt.ElementWiseOperation.SUM).get_output(0)
    doubled.name = "Y"
    network.mark_output(doubled)
    profile = builder.create_optimization_profile()
    profile.set_shape("X", (1, 2), (2, 2), (4, 2))
    options = builder.create_builder_config()
    options.add_optimization_profile(profile)
    folder = tmp_path_factory.mktemp("tensorrt") / "1"
    folder.mkdir()
    (folder / "model.plan").write_bytes(builder.build_serialized_network(network, options))
    return folder


def load(host, folder, **fields):
    base = {"backend": "tensorrt", "input": [], "output": [], "max_batch_size": 0}
    config = read(document("m", **base | fields), version=1, path=str(folder), arguments={})
    host.link.send(Load(msgspec.json.encode(config), "m_0_0", "GPU", 0, completes=True))
    return host.link.receive()[0]


def test_a_plan_completes_its_configuration_and_runs_batches(version):
    with instance() as host:
        answer = load(host, version)
        assert isinstance(answer, Completed), answer
        assert host.link.receive()[0] == Loaded()
        for rows in (1, 4, 2):
            value = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
            respond, outputs = host.ask(tensor("X", value))
            assert not respond.error, respond.message
            assert outputs["Y"].tolist() == (value * 2).tolist()
        respond, _ = host.ask(tensor("X", np.zeros((5, 2), np.float32)))
    assert "outside of the plan's optimization profile" in respond.message
    completed = json.loads(answer.document)
    assert [(each["name"], each["dims"]) for each in completed["input"] + completed["output"]] == [
        ("X", [2]),
        ("Y", [2]),
    ]


def test_a_profile_that_there_is_not_is_refused(version):
    with instance() as host:
        answer = load(host, version, instance_group=[{"profile": ["7"]}])
        if isinstance(answer, Completed):
            answer = host.link.receive()[0]
    assert isinstance(answer, Failed)
    assert "has no optimization profile '7', it has 1" in answer.message
