from __future__ import annotations

import importlib.util

import pytest

from backends.config import read
from backends.worker.instance import LoadError
from backends.worker.loaders import tensorrt_model
from backends.worker.messages import Load
from tests.backends.worker.executing import CPU
from tests.backends.worker.instances import document


def config(**fields):
    return read(document("m", backend="tensorrt", **fields), version=1, path="", arguments={})


def test_a_plan_on_the_cpu_is_refused():
    with pytest.raises(LoadError, match="model 'm' is a TensorRT plan, which only runs on an NVIDIA GPU"):
        tensorrt_model.load(config(), CPU, None)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_install_line_is_said():
    for load in (
        lambda: tensorrt_model.complete(config(input=[])),
        lambda: tensorrt_model.load(config(), Load(b"", "m_0_0", "GPU", 0, completes=False), None),
    ):
        with pytest.raises(LoadError, match=r"pip install 'tritium\[tensorrt\]'"):
            load()
