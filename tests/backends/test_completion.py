"""What a configuration leaves out is filled in as Triton's core fills it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.completion import complete
from backends.pbtxt import read_text


def completed(text: str, version: Path | None = None, gpus: tuple[int, ...] = ()) -> dict[str, Any]:
    fields = read_text(text)
    complete(fields, "m", version, gpus)
    again = read_text(text)
    complete(again, "m", version, gpus)
    complete(again, "m", version, gpus)
    assert again == fields, "completing twice changes something"
    return fields


def group(text: str, **given: Any) -> dict[str, Any]:
    (found,) = completed(f'backend: "python" {text}', **given)["instance_group"]
    return {key: found[key] for key in ("name", "kind", "count", "gpus")}


@pytest.mark.parametrize(
    ("text", "file", "expected"),
    [
        ('backend: "python"', "", ("python", "", "model.py")),
        ('backend: "python" default_model_filename: "other.py"', "", ("python", "", "other.py")),
        ('backend: "onnxruntime"', "", ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('platform: "onnxruntime_onnx"', "", ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('platform: "pytorch_libtorch"', "", ("pytorch", "pytorch_libtorch", "model.pt")),
        ('platform: "tensorrt_plan"', "", ("tensorrt", "tensorrt_plan", "model.plan")),
        ('platform: "tensorflow_graphdef"', "", ("tensorflow", "tensorflow_graphdef", "model.graphdef")),
        ('backend: "tensorflow"', "", ("tensorflow", "tensorflow_savedmodel", "model.savedmodel")),
        ('backend: "vllm"', "", ("vllm", "", "")),
        ('platform: "ensemble"', "model.py", ("", "ensemble", "")),
        ('platform: "unheard_of"', "model.py", ("", "unheard_of", "")),
        ("", "model.py", ("python", "", "model.py")),
        ("", "model.onnx", ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ("", "model.pt", ("pytorch", "pytorch_libtorch", "model.pt")),
        ("", "model.plan", ("tensorrt", "tensorrt_plan", "model.plan")),
        ("", "model.graphdef", ("tensorflow", "tensorflow_graphdef", "model.graphdef")),
        ('default_model_filename: "model.onnx"', "", ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ("", "", ("", "", "")),
    ],
)
def test_backend_platform_and_file_tell_each_other(
    tmp_path: Path, text: str, file: str, expected: tuple[str, str, str]
) -> None:
    if file:
        (tmp_path / file).touch()
    fields = completed(text, tmp_path)
    assert (fields["backend"], fields["platform"], fields["default_model_filename"]) == expected


def test_a_saved_model_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.savedmodel").mkdir()
    assert completed("", tmp_path)["platform"] == "tensorflow_savedmodel"


def test_the_latest_version_is_served_where_nothing_is_said() -> None:
    assert completed("")["version_policy"] == {"latest": {"num_versions": 1}}
    assert completed("version_policy { latest { } }")["version_policy"] == {"latest": {"num_versions": 1}}
    assert completed("version_policy { all { } }")["version_policy"] == {"all": {}}


def test_a_batch_as_large_as_may_be_is_preferred() -> None:
    assert completed("max_batch_size: 8 dynamic_batching { }")["dynamic_batching"]["preferred_batch_size"] == [8]
    assert completed("dynamic_batching { }")["dynamic_batching"]["preferred_batch_size"] == []
    given = completed("max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2 ] }")
    assert given["dynamic_batching"]["preferred_batch_size"] == [2]
    oldest = completed("max_batch_size: 4 sequence_batching { oldest { } }")["sequence_batching"]
    assert oldest["oldest"]["preferred_batch_size"] == [4]


def test_a_sequence_may_be_idle_for_a_second() -> None:
    assert completed("sequence_batching { }")["sequence_batching"]["max_sequence_idle_microseconds"] == 1_000_000


def test_instances_are_named_counted_and_placed() -> None:
    assert group("") == {"name": "m", "kind": "KIND_CPU", "count": 1, "gpus": []}
    assert group("", gpus=(0, 1)) == {"name": "m", "kind": "KIND_GPU", "count": 1, "gpus": [0, 1]}
    assert group("instance_group [ { count: 3 } ]") == {"name": "m_0", "kind": "KIND_CPU", "count": 3, "gpus": []}
    assert group('instance_group [ { name: "x" kind: KIND_CPU } ]', gpus=(0,)) == {
        "name": "x",
        "kind": "KIND_CPU",
        "count": 1,
        "gpus": [],
    }
    assert group("instance_group [ { kind: KIND_GPU gpus: [ 1 ] } ]", gpus=(0, 1))["gpus"] == [1]
    assert group("instance_group [ { kind: KIND_MODEL } ]", gpus=(0, 1))["gpus"] == []


def test_two_instances_of_onnxruntime_run_on_a_cpu_where_nothing_is_said() -> None:
    assert completed('backend: "onnxruntime"')["instance_group"][0]["count"] == 2
    assert completed('backend: "onnxruntime"', gpus=(0,))["instance_group"][0]["count"] == 1


def test_memory_is_pinned_where_nothing_is_said() -> None:
    assert completed("")["optimization"] == {
        "priority": "PRIORITY_DEFAULT",
        "input_pinned_memory": {"enable": True},
        "output_pinned_memory": {"enable": True},
        "gather_kernel_buffer_threshold": 0,
        "eager_batching": False,
    }
    given = completed("optimization { input_pinned_memory { enable: false } }")["optimization"]
    assert (given["input_pinned_memory"], given["output_pinned_memory"]) == ({"enable": False}, {"enable": True})


def test_an_ensemble_has_neither_instances_nor_optimization() -> None:
    fields = completed('platform: "ensemble" ensemble_scheduling { }')
    assert (fields["instance_group"], "optimization" in fields) == ([], False)
