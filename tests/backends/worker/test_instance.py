from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from backends.worker.messages import Failed, Loaded
from tests.backends.worker.instances import configuration, instance, tensor

IDENTITY = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
"""


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    with instance() as host:
        assert host.load(configuration(tmp_path_factory.mktemp("identity"), IDENTITY)) == Loaded()
        yield host


@pytest.mark.parametrize("shape", [(1, 16), (1, 0), (0, 4), (1, 4_000_000)])
def test_tensors_of_every_size_pass(identity, shape):
    value = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    respond, outputs = identity.ask(tensor("X", value))
    assert not respond.error
    np.testing.assert_array_equal(outputs["Y"], value)


def test_the_time_that_a_batch_took_is_told(identity):
    identity.start([tensor("X", np.zeros((1, 1), np.int32))])
    identity.next()
    executed = identity.await_end()
    assert executed.compute_infer_ns > 0
    assert not executed.failed


def test_ctrl_c_at_a_terminal_is_for_the_supervisor(identity):
    os.kill(identity.process.pid, signal.SIGINT)
    assert identity.ask(tensor("X", np.zeros((1, 1), np.int32)))[1]["Y"].tolist() == [[0]]


def test_an_instance_ends_when_its_host_is_gone(tmp_path):
    with instance() as host:
        host.load(configuration(tmp_path, IDENTITY))
        host.link._socket.close()
        assert host.process.wait(10) == 0
    with instance() as host:
        host.link._socket.close()
        assert host.process.wait(10) == 0


def test_a_backend_that_there_is_not_is_said_in_tritons_words(tmp_path):
    with instance() as host:
        assert host.load(configuration(tmp_path, IDENTITY, backend="nosuchbackend")) == Failed(
            "unable to find backend library for backend 'nosuchbackend', try specifying runtime on the model"
            " configuration."
        )
