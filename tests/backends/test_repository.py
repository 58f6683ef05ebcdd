"""Triton model repositories become configurations, and what is wrong with one is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from backends.repository import BrokenModel, load, load_one


def add(repository: Path, name: str, config: str | None, *versions: str, **files: str) -> Path:
    folder = repository / name
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    for version in versions:
        (folder / version).mkdir()
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def configs(repository: Path, config_name: str | None = None) -> list[ModelConfig]:
    models = load([repository], config_name)
    assert all(isinstance(model, ModelConfig) for model in models), models
    return [model for model in models if isinstance(model, ModelConfig)]


def reason(repository: Path) -> str:
    (model,) = load([repository])
    assert isinstance(model, BrokenModel)
    return model.reason


def test_every_field_that_is_used_is_read(tmp_path: Path) -> None:
    text = """
        name: "m"
        backend: "vllm"
        max_batch_size: 8
        default_model_filename: "args.json"
        instance_group [ { count: 2, kind: KIND_GPU, gpus: [ 0, 1 ] }, { kind: KIND_MODEL } ]
        parameters { key: "a" value { string_value: "b" } }
    """
    folder = add(tmp_path, "m", text, "1", **{"1/args.json": '{"model": "x", "nested": {"k": [1, null]}}'})
    (model,) = configs(tmp_path)
    assert (model.name, model.backend, model.version, model.path) == ("m", "vllm", 1, str(folder / "1"))
    assert model.max_batch_size == 8
    assert model.parameters == {"a": "b"}
    assert model.arguments == {"model": "x", "nested": {"k": [1, None]}}
    assert [(g.count, g.kind, g.gpus) for g in model.instance_group] == [(2, "KIND_GPU", (0, 1)), (1, "KIND_MODEL", ())]


def test_a_model_without_an_argument_file_has_no_arguments_and_needs_no_name(tmp_path: Path) -> None:
    add(tmp_path, "m", 'backend: "openai"', "1")
    (model,) = configs(tmp_path)
    assert model.name == "m"
    assert model.arguments == {}


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("", [12]),
        ("version_policy { latest { } }", [12]),
        ("version_policy { latest { num_versions: 2 } }", [3, 12]),
        ("version_policy { all { } }", [1, 3, 12]),
        ("version_policy { }", [1, 3, 12]),
        ("version_policy { specific { versions: [1, 3, 99] } }", [1, 3]),
    ],
)
def test_the_version_policy_chooses_versions_by_number(tmp_path: Path, policy: str, chosen: list[int]) -> None:
    add(tmp_path, "m", f'backend: "echo" {policy}', "1", "3", "12", "007", "notes", "v4")
    assert [model.version for model in configs(tmp_path)] == chosen


def test_a_named_configuration_is_taken_where_it_exists(tmp_path: Path) -> None:
    add(tmp_path, "a", 'backend: "llamacpp"', "1", **{"configs/vllm.pbtxt": 'name: "a" backend: "vllm"'})
    add(tmp_path, "b", 'backend: "llamacpp"', "1")
    assert [model.backend for model in configs(tmp_path)] == ["llamacpp", "llamacpp"]
    assert [model.backend for model in configs(tmp_path, "vllm")] == ["vllm", "llamacpp"]


def test_a_platform_stands_for_its_backend(tmp_path: Path) -> None:
    add(tmp_path, "m", 'platform: "onnxruntime_onnx" default_model_filename: "net.onnx"', "1")
    (model,) = configs(tmp_path)
    assert (model.backend, model.platform, model.arguments) == ("onnxruntime", "onnxruntime_onnx", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["model configuration is not provided", "config.pbtxt"]),
        ('backend: "echo" nonsense: 1', ["config.pbtxt: 1:17", 'no field named "nonsense"']),
        ('backend: "echo"\nmax_batch_size: banana', ["config.pbtxt: 2:17", "banana"]),
        ('name: "other" backend: "echo"', ["'m'", "'other'", "directory name must equal model name"]),
        ('name: "m"', ["no backend", "'m'", "config.pbtxt"]),
        (
            'backend: "onnxruntime" platform: "tensorrt_plan"',
            ["unexpected 'platform' and 'backend' pair, got:tensorrt_plan, onnxruntime"],
        ),
        ('platform: "unheard_of"', ["unexpected platform type 'unheard_of' for m"]),
        ('backend: "echo" version_policy { specific { versions: [2] } }', ["at least one version", "it has 1"]),
        ('backend: "echo" default_model_filename: "gone.json"', ["1/gone.json", "No such file"]),
    ],
)
def test_a_broken_model_says_what_and_where(tmp_path: Path, text: str | None, words: list[str]) -> None:
    add(tmp_path, "m", text, "1")
    assert all(word in reason(tmp_path) for word in words), reason(tmp_path)


def test_a_configuration_that_is_not_text_is_named(tmp_path: Path) -> None:
    folder = add(tmp_path, "m", None, "1")
    (folder / "config.pbtxt").write_bytes(b"\xff\xfe")
    assert "failed to read" in reason(tmp_path)


def test_a_configuration_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    folder = add(tmp_path, "m", None, "1")
    (folder / "config.pbtxt").mkdir()
    assert "config.pbtxt: [Errno 21] Is a directory" in reason(tmp_path)


def test_comments_may_be_of_any_encoding(tmp_path: Path) -> None:
    folder = add(tmp_path, "m", None, "1")
    (folder / "config.pbtxt").write_bytes('# für\nbackend: "echo"'.encode("latin-1"))
    assert [model.backend for model in configs(tmp_path)] == ["echo"]


def test_numbers_that_no_version_can_have_are_no_versions(tmp_path: Path) -> None:
    add(tmp_path, "m", 'backend: "echo"', "3", str(2**63), "9" * 200)
    assert [model.version for model in configs(tmp_path)] == [3]


def test_a_model_without_versions_is_broken(tmp_path: Path) -> None:
    add(tmp_path, "m", 'backend: "echo"')
    assert "at least one version must be available" in reason(tmp_path)


def test_a_model_whose_weights_nobody_fetched_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    folder = add(tmp_path, "m", 'backend: "echo"')
    (folder / "weights.json").write_text("{}")
    add(tmp_path, "n", 'backend: "echo"', "1")
    assert [config.name for config in configs(tmp_path)] == ["n"]
    (asked,) = load_one([tmp_path], "m")
    assert isinstance(asked, BrokenModel)
    assert asked.reason.endswith("its weights are not fetched: tritium models pull m")


@pytest.mark.parametrize(
    ("text", "words"), [('{"a": }', "line 1 column 7"), ("[1]", "JSON object"), ("{", "model.json")]
)
def test_broken_arguments_name_the_file_and_the_position(tmp_path: Path, text: str, words: str) -> None:
    add(tmp_path, "m", 'backend: "echo"', "1", **{"1/model.json": text})
    assert words in reason(tmp_path)
    assert "1/model.json" in reason(tmp_path)


def test_the_same_name_in_two_repositories_is_refused_and_spoils_no_other(tmp_path: Path) -> None:
    for repository in (tmp_path / "one", tmp_path / "two"):
        add(repository, "twice", 'backend: "echo"', "1")
    add(tmp_path / "two", "alone", 'backend: "echo"', "1")
    alone, twice = load([tmp_path / "one", tmp_path / "two"])
    assert isinstance(alone, ModelConfig)
    assert isinstance(twice, BrokenModel)
    assert "model appears in two or more repositories" in twice.reason
    assert str(tmp_path / "one" / "twice") in twice.reason


def test_hidden_folders_and_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("")
    assert load([tmp_path]) == []


def test_folders_whose_names_are_no_unicode_are_no_models(tmp_path: Path) -> None:
    add(tmp_path, "größe", 'backend: "echo"', "1")
    add(tmp_path, "gr\udcf6\udcdfe", 'backend: "echo"', "1")
    assert [model.name for model in configs(tmp_path)] == ["größe"]


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="gone"):
        load([tmp_path / "gone"])


def test_importing_the_module_does_not_import_grpc() -> None:
    code = "import sys, backends.repository; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
