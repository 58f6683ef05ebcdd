from __future__ import annotations

import sys
import tarfile

import numpy as np
import pytest

from backends.worker.loaders.environments import PARAMETER
from backends.worker.messages import Failed, Loaded
from tests.backends.worker.instances import configuration, instance, tensor

WHERE = """
import os

class TritonPythonModel:
    def execute(self, requests):
        text = np.array([os.environ["VIRTUAL_ENV"].encode(), os.environ["PATH"].encode()], dtype=object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", text)]) for _ in requests]
"""


def environment(folder, python: str):
    """An environment whose Python is a script."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").touch()
    (binaries / "python").write_text(f"#!/bin/sh\n{python}\n")
    (binaries / "python").chmod(0o755)
    return folder


def model(tmp_path, path: str):
    return configuration(tmp_path / "models", WHERE, parameters={PARAMETER: {"string_value": path}})


def places(host) -> tuple[str, str]:
    """What the model says of its environment: its folder, and where it looks for programs."""
    _, outputs = host.ask(tensor("X", np.zeros((1, 1), np.int32)))
    folder, path = outputs["Y"]
    return folder.decode(), path.decode()


def test_a_model_runs_under_the_python_of_its_environment(tmp_path):
    folder = environment(tmp_path / "models" / "m" / "env", f'exec {sys.executable} "$@"')
    with instance() as host:
        assert host.load(model(tmp_path, "$$TRITON_MODEL_DIRECTORY/env")) == Loaded()
        said, path = places(host)
    assert said == str(folder)
    assert path.startswith(f"{folder}/bin:")


def test_an_archived_environment_is_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = environment(tmp_path / "env", f'exec {sys.executable} "$@"')
    with tarfile.open(tmp_path / "env.tar.gz", "w:gz") as tar:
        tar.add(folder, ".")
    config = model(tmp_path, str(tmp_path / "env.tar.gz"))
    found = set()
    for _ in range(2):
        with instance() as host:
            assert host.load(config) == Loaded()
            found.add(places(host)[0])
    assert len(found) == 1
    assert found.pop().startswith(str(tmp_path / "tritium-environments-"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/env", "Failed to get the canonical path for /no/such/env."),
        (
            "{tmp}",
            "Path {tmp}/bin/activate does not exist. The Python environment should contain an 'activate' script.",
        ),
        ("{tmp}/broken.tar.gz", "Failed to extract the Python environment {tmp}/broken.tar.gz: "),
        (
            "{tmp}/old",
            "The Python environment {tmp}/old cannot run instances: its Python is 3.8, at least 3.11 is needed",
        ),
        ("{tmp}/none", "The Python of the environment {tmp}/none does not run: "),
    ],
)
def test_an_environment_that_cannot_be_used_says_why(tmp_path, path, message):
    (tmp_path / "broken.tar.gz").write_text("no archive")
    environment(tmp_path / "old", 'echo "its Python is 3.8, at least 3.11 is needed" >&2; exit 1')
    (environment(tmp_path / "none", "") / "bin" / "python").unlink()
    with instance() as host:
        failed = host.load(model(tmp_path, path.format(tmp=tmp_path)))
    assert isinstance(failed, Failed)
    assert failed.message.startswith(message.format(tmp=tmp_path))
