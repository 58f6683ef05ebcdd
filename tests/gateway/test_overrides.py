"""What clients have put in the place of a model's own configuration and files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from gateway.overrides import Override, Overrides
from gateway.settings import Settings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "a" / "1").mkdir(parents=True)
    (folder / "a" / "config.pbtxt").write_text('backend: "python"')
    (folder / "a" / "1" / "model.py").touch()
    return folder


@pytest.fixture
def overrides(repository: Path, tmp_path: Path) -> Overrides:
    return Overrides(Settings(model_repository=(repository,)), str(tmp_path))


def test_a_configuration_of_a_client_counts_until_the_models_own_files_change(
    repository: Path, overrides: Overrides
) -> None:
    def size() -> int:
        (model,) = overrides.find("a")
        return model.max_batch_size

    (model,) = overrides.find("a", Override('{"backend": "python", "max_batch_size": 4}'))
    assert model.max_batch_size == 4
    overrides.keep("a")
    assert size() == 4
    os.utime(repository / "a" / "1" / "model.py", ns=(1, 1))
    assert size() == 0


def test_a_configuration_of_a_client_is_forgotten_with_the_model(overrides: Overrides) -> None:
    overrides.find("a", Override('{"backend": "python", "max_batch_size": 4}'))
    overrides.keep("a")
    overrides.forget("a")
    assert overrides.find("a")[0].max_batch_size == 0


def test_a_configuration_that_did_not_load_does_not_count(overrides: Overrides) -> None:
    def found(size: int | None = None) -> int:
        override = None if size is None else Override(f'{{"backend": "python", "max_batch_size": {size}}}')
        return overrides.find("a", override)[0].max_batch_size

    found(4)
    overrides.keep("a")
    found(8)
    assert found() == 4
    overrides.keep("a")
    assert found() == 4


def test_a_configuration_that_is_refused_does_not_count(overrides: Overrides) -> None:
    with pytest.raises(InvalidRequest):
        overrides.find("a", Override("{x"))
    with pytest.raises(InvalidRequest):
        overrides.find("a", Override('{"name": "other", "backend": "python"}'))
    assert overrides.find("a")[0].backend == "python"


def test_files_of_a_client_are_a_model_of_their_own_until_it_is_closed(overrides: Overrides, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"import x\n")
    (model,) = overrides.find("fresh", Override('{"backend": "python"}', {"1/model.py": tmp_path / "sent"}))
    assert isinstance(model, ModelConfig)
    assert (Path(model.path) / "model.py").read_bytes() == b"import x\n"
    assert overrides.has_files("fresh")
    overrides.close()
    assert not (tmp_path / "overrides").exists()


def test_files_do_not_pile_up(overrides: Overrides, tmp_path: Path) -> None:
    (tmp_path / "sent").touch()
    override = Override('{"backend": "python"}', {"1/model.py": tmp_path / "sent"})
    (first,) = overrides.find("fresh", override)
    overrides.keep("fresh")
    for _ in range(5):
        overrides.find("fresh", override)
    assert Path(first.path).exists(), "what serves was removed"
    assert len(list((tmp_path / "overrides").iterdir())) == 2


def test_files_need_a_configuration_and_stay_in_their_folder(overrides: Overrides, tmp_path: Path) -> None:
    (tmp_path / "sent").touch()
    with pytest.raises(InvalidRequest, match="without a configuration"):
        overrides.find("fresh", Override(None, {"1/model.py": tmp_path / "sent"}))
    for path in ("../../../escaped", "/tmp/escaped", "", "1/..", "a\0b"):
        with pytest.raises(InvalidRequest, match="not inside the model's folder"):
            overrides.find("fresh", Override('{"backend": "python"}', {path: tmp_path / "sent"}))
    for name in ("../escaped", "a/b", "..", ""):
        with pytest.raises(InvalidRequest, match="is no name of a model"):
            overrides.find(name, Override('{"backend": "python"}', {"x": tmp_path / "sent"}))
    with pytest.raises(InvalidRequest, match="cannot be written"):
        overrides.find("fresh", Override('{"backend": "python"}', {"n" * 300: tmp_path / "sent"}))
    assert not list(tmp_path.rglob("escaped"))
