"""Model repositories in Triton's layout, read into configurations: `<model>/config.pbtxt`, `<model>/<version>/…`.

Reasons are worded as Triton words them, so that what people know and search for still applies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.config import InstanceGroup, ModelConfig
from backends.errors import InvalidRequest

_BACKEND_OF_PLATFORM = {
    "ensemble": "ensemble",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "tensorrt_plan": "tensorrt",
}
_DEFAULT_ARGUMENTS = "model.json"


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A folder of the repository that cannot be served; `reason` is written for its owner."""

    name: str
    reason: str


def load(paths: Sequence[Path], config_name: str | None = None) -> list[ModelConfig | BrokenModel]:
    """Read every model of the repositories: one `ModelConfig` a version that its policy chooses, ordered by name.

    With `config_name`, a model that has `configs/<config_name>.pbtxt` is read from it instead of `config.pbtxt`.
    A model that cannot be read is one `BrokenModel` and spoils no other. Raises `InvalidRequest` when a
    repository is not a directory.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        if not path.is_dir():
            raise InvalidRequest(f"The model repository '{path}' is not a directory.", param="model_repository")
        for folder in path.iterdir():
            if folder.is_dir() and not folder.name.startswith("."):
                found.setdefault(folder.name, []).append(folder.resolve())
    models: list[ModelConfig | BrokenModel] = []
    for name, folders in sorted(found.items()):
        if len(folders) > 1:
            places = ", ".join(str(folder) for folder in folders)
            models.append(BrokenModel(name, f"model appears in two or more repositories: {places}"))
            continue
        try:
            models.extend(_read(folders[0], name, config_name))
        except _UnreadableError as error:
            models.append(BrokenModel(name, str(error)))
    return models


class _UnreadableError(Exception):
    """Why a model folder cannot be read; becomes a `BrokenModel`."""


def _read(folder: Path, name: str, config_name: str | None) -> list[ModelConfig]:
    parsed, file = _parse(folder, config_name)
    if parsed.name and parsed.name != name:
        raise _UnreadableError(
            f"unexpected directory name '{name}' for model '{parsed.name}', "
            f"directory name must equal model name: {file}"
        )
    backend = parsed.backend or _BACKEND_OF_PLATFORM.get(parsed.platform, "")
    if not backend:
        raise _UnreadableError(
            f"no backend or known platform in the configuration of model '{name}': set 'backend' in {file}"
        )
    groups = tuple(
        InstanceGroup(count=group.count or 1, kind=type(group).Kind.Name(group.kind), gpus=tuple(group.gpus))
        for group in parsed.instance_group
    )
    return [
        ModelConfig(
            name=name,
            backend=backend,
            platform=parsed.platform,
            max_batch_size=parsed.max_batch_size,
            default_model_filename=parsed.default_model_filename,
            instance_group=groups,
            parameters={key: value.string_value for key, value in parsed.parameters.items()},
            version=version,
            path=str(folder / str(version)),
            arguments=_arguments(folder / str(version), parsed.default_model_filename),
        )
        for version in _chosen_versions(parsed, name, folder)
    ]


def _parse(folder: Path, config_name: str | None) -> tuple[Any, Path]:
    """The protobuf message and the file it came from."""
    # Imported here because only the supervisor reads repositories: with grpc behind it, it costs 0.4 s and 30 MB.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    file = folder / "config.pbtxt"
    if config_name and (folder / "configs" / f"{config_name}.pbtxt").is_file():
        file = folder / "configs" / f"{config_name}.pbtxt"
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig()), file
    except FileNotFoundError as error:
        raise _UnreadableError(f"model configuration is not provided: {file} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _UnreadableError(f"failed to read {file}: {error}") from error
    except text_format.ParseError as error:
        raise _UnreadableError(f"failed to read text proto from {file}: {error}") from error


def _chosen_versions(parsed: Any, name: str, folder: Path) -> list[int]:
    """The version directories that the policy chooses: the latest one unless it says otherwise."""
    present = sorted(_versions(folder))
    policy = parsed.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            chosen = present
        case "specific":
            chosen = [version for version in present if version in policy.specific.versions]
        case _:
            chosen = present[-(policy.latest.num_versions or 1) :]
    if not chosen:
        there = f"it has {', '.join(map(str, present))}" if present else f"make a directory such as {folder / '1'}"
        raise _UnreadableError(
            f"at least one version must be available under the version policy of model '{name}': {there}"
        )
    return chosen


def _versions(folder: Path) -> Iterator[int]:
    for entry in folder.iterdir():
        digits = entry.name
        # As Triton: what starts with a zero is no version.
        if digits.isascii() and digits.isdigit() and digits[0] != "0" and entry.is_dir():
            yield int(digits)


def _arguments(directory: Path, default_model_filename: str) -> dict[str, Any]:
    """The engine arguments beside the model; a configuration that names a file must find it."""
    named = default_model_filename.endswith(".json")
    file = directory / (default_model_filename if named else _DEFAULT_ARGUMENTS)
    if not named and not file.exists():
        return {}
    try:
        arguments = json.loads(file.read_bytes())
    except OSError as error:
        raise _UnreadableError(f"failed to read {file}: {error.strerror}") from error
    except ValueError as error:
        raise _UnreadableError(f"failed to parse {file}: {error}") from error
    if not isinstance(arguments, dict):
        raise _UnreadableError(f"failed to parse {file}: a JSON object is wanted at line 1 column 1")
    return arguments
