"""Which models are wanted, and how they are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backends.errors import InvalidRequest, ModelNotFound
from backends.repository import BrokenModel
from gateway.choice import NoVersion, choose, find, stamp
from gateway.settings import Settings

STEP = 'step [ { model_name: "a" input_map { key: "I" value: "A" } output_map { key: "O" value: "Z" } } ]'
TENSORS = (
    'input [ { name: "A" data_type: TYPE_FP32 dims: [ 1 ] } ] output [ { name: "Z" data_type: TYPE_FP32 dims: [ 1 ] } ]'
)
ENSEMBLE = f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ {STEP} }}'


def add(repository: Path, name: str, config: str, **files: str) -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    for path, text in files.items():
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    add(folder, "a", 'backend: "python"', **{"1/model.py": ""})
    add(folder, "b", 'backend: "echo"')
    add(folder, "whole", ENSEMBLE)
    return folder


def given(repository: Path, **settings: Any) -> Settings:
    return Settings(model_repository=(repository,), **settings)


def explicit(repository: Path, *names: str) -> list[str]:
    settings = given(repository, model_control_mode="explicit", load_model=names)
    return [model.name for model in choose(settings)]


def test_what_an_ensemble_is_made_of_is_chosen_with_it(repository: Path) -> None:
    assert explicit(repository, "whole") == ["a", "whole"]
    add(repository, "wider", ENSEMBLE.replace('"a"', '"whole"'))
    assert explicit(repository, "wider") == ["a", "whole", "wider"]


def test_ensembles_that_go_round_in_circles_are_each_chosen_once(repository: Path) -> None:
    add(repository, "a", ENSEMBLE.replace('"a"', '"whole"'))
    assert explicit(repository, "whole") == ["a", "whole"]


def test_poll_mode_chooses_all_and_wants_no_names(repository: Path) -> None:
    assert [model.name for model in choose(given(repository, model_control_mode="poll"))] == ["a", "b", "whole"]
    with pytest.raises(InvalidRequest, match="--load-model needs"):
        choose(given(repository, model_control_mode="poll", load_model=("a",)))


def test_an_ensemble_that_does_not_hold_together_is_a_broken_model(repository: Path) -> None:
    add(repository, "whole", f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ }}')
    broken = choose(given(repository))[-1]
    assert isinstance(broken, BrokenModel)
    assert broken.reason == "must specify 'step' for ensemble 'whole'"


def test_a_model_without_a_configuration_is_one_where_its_files_say_what_it_is(repository: Path) -> None:
    (repository / "a" / "config.pbtxt").unlink()
    (model,) = find(given(repository), "a")
    assert (model.backend, model.default_model_filename) == ("python", "model.py")
    with pytest.raises(InvalidRequest, match="configuration is not provided"):
        find(given(repository, disable_auto_complete_config=True), "a")


def test_without_completion_a_models_tensors_must_be_declared(repository: Path) -> None:
    add(repository, "a", 'input [ { name: "X" dims: [ 1 ] } ]')
    assert find(given(repository), "a")[0].backend == "python"
    with pytest.raises(InvalidRequest, match="model input 'X' must specify 'data_type' for a"):
        find(given(repository, disable_auto_complete_config=True), "a")
    add(repository, "a", "")
    assert find(given(repository, disable_auto_complete_config=True), "a")[0].backend == "python"


def test_the_size_of_batches_that_nobody_says_is_that_of_the_backend_or_of_all(repository: Path) -> None:
    def size(*options: str) -> int:
        return find(given(repository, backend_config=options), "a")[0].default_max_batch_size

    assert size() == 4
    assert size("python,default-max-batch-size=8", "default-max-batch-size=2") == 8
    assert size("onnxruntime,default-max-batch-size=8", "default-max-batch-size=2") == 2


def test_a_model_without_a_version_is_told_from_one_that_is_not_there(repository: Path) -> None:
    (repository / "b" / "1").rmdir()
    with pytest.raises(NoVersion, match="at least one version must be available"):
        find(given(repository), "b")
    with pytest.raises(ModelNotFound, match="no model 'zz'"):
        find(given(repository), "zz")


def test_a_stamp_changes_with_what_a_model_is_made_of_alone(repository: Path) -> None:
    folder = repository / "a" / "1"
    before = stamp(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.cpython-311.pyc").touch()
    assert stamp(folder) == before
    os.utime(folder / "model.py", ns=(1, 1))
    assert stamp(folder) != before
