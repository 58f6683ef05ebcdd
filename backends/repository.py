"""Model repositories in Triton's layout, read into configurations: `<model>/config.pbtxt`, `<model>/<version>/…`.

Reasons are worded as Triton words them, so that what people know and search for still applies.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backends.completion import DEFAULT_FILENAMES, Fields, agree, complete
from backends.config import InstanceGroup, ModelConfig, read
from backends.errors import InvalidRequest
from backends.interface import adopt
from backends.pbtxt import PbtxtError, read_json, read_text
from backends.validation import fault, refusal

_DEFAULT_ARGUMENTS = "model.json"
_ARGUMENTS = {"rag": "pipeline.json"}
_LAST_VERSION = 2**63 - 1
_DUPLICATE = "model appears in two or more repositories"


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A folder of the repository that cannot be served; `reason` is written for its owner.

    `is_known`: its configuration is good, and only a version to serve is missing.
    """

    name: str
    reason: str
    is_known: bool = False


def load(
    paths: Sequence[Path], config_name: str | None = None, *, completes: bool = True
) -> list[ModelConfig | BrokenModel]:
    """Read every model of the repositories: one `ModelConfig` a version that its policy chooses, ordered by name.

    With `config_name`, a model that has `configs/<config_name>.pbtxt` is read from it instead of `config.pbtxt`.
    Without `completes`, a model needs a configuration that is whole. A model that cannot be read is one `BrokenModel`
    and spoils no other; one whose weights nobody has fetched is left out. Raises `InvalidRequest` when a repository is
    not a directory.
    """
    models: list[ModelConfig | BrokenModel] = []
    for name, places in folders(paths).items():
        if not all(map(_waits_for_weights, places)):
            models.extend(load_one(paths, name, config_name, completes=completes))
    return models


def load_one(
    paths: Sequence[Path],
    name: str,
    config_name: str | None = None,
    *,
    completes: bool = True,
    override: str | None = None,
    files: Path | None = None,
) -> list[ModelConfig | BrokenModel]:
    """As `load`, for one model; nothing where it is not there.

    `override` is a configuration in JSON that stands for the one in the repository, `files` a folder that stands for
    the model's own.
    """
    places = [files] if files is not None else folders(paths).get(name, [])
    if len(places) > 1:
        return [BrokenModel(name, f"{_DUPLICATE}: {', '.join(map(str, places))}")]
    try:
        return [model for place in places for model in _read(place, name, config_name, completes, override)]
    except _UnreadableError as error:
        return [BrokenModel(name, str(error))]


def folders(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The folders of each model, ordered by name. Raises `InvalidRequest` when a repository is not a directory."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        if not path.is_dir():
            raise InvalidRequest(f"The model repository '{path}' is not a directory.", param="model_repository")
        for folder in path.iterdir():
            if folder.is_dir() and not folder.name.startswith(".") and _can_be_told(folder.name):
                found.setdefault(folder.name, []).append(folder.resolve())
    return dict(sorted(found.items()))


def _can_be_told(name: str) -> bool:
    """Whether a folder's name is Unicode: no client could ask for it otherwise, nor be told of it."""
    return name == name.encode(errors="replace").decode()


def _waits_for_weights(folder: Path) -> bool:
    """Whether a model has a manifest of weights and nothing of them, nor any other version."""
    return (folder / "weights.json").is_file() and not any(_versions(folder))


def adopted(config: ModelConfig, remote: str) -> str:
    """Triton's JSON of a configuration with the tensors of a remote model, whose JSON is `remote`.

    Raises `InvalidRequest` where that is none.
    """
    try:
        fields = json.loads(config.document)
        adopt(fields, json.loads(remote))
        document = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, AttributeError) as error:
        raise InvalidRequest(f"The remote configuration of model {config.name!r} is wrong: {error}") from error
    completed(config, document)
    return document


def completed(config: ModelConfig, document: str) -> ModelConfig:
    """The configuration as an instance has completed it from the model: `document` is Triton's JSON of that.

    Raises `InvalidRequest` where the document is none.
    """
    try:
        fields = read_json(document)
        complete(fields, config.name, Path(config.path), gpus())
        return _config(fields, config.version, config.path, config.arguments)
    except (PbtxtError, msgspec.ValidationError) as error:
        raise InvalidRequest(f"The completed configuration of model {config.name!r} is wrong: {error}") from error


class _UnreadableError(Exception):
    """Why a model folder cannot be read; becomes a `BrokenModel`."""


def _read(
    folder: Path, name: str, config_name: str | None, completes: bool, override: str | None
) -> list[ModelConfig | BrokenModel]:
    present = sorted(_versions(folder))
    first = folder / str(min(present, key=str)) if present else None
    fields, file = _parse(folder, config_name, completes, override)
    if fields["name"] and fields["name"] != name:
        raise _UnreadableError(
            f"unexpected directory name '{name}' for model '{fields['name']}', "
            f"directory name must equal model name: {file}"
        )
    given = copy.deepcopy(fields["instance_group"])
    complete(fields, name, first, gpus())
    if not fields["backend"] and fields["platform"] != "ensemble":
        raise _UnreadableError(_nameless(fields, name, file))
    if not agree(fields["backend"], fields["platform"]):
        raise _UnreadableError(
            f"unexpected 'platform' and 'backend' pair, got:{fields['platform']}, {fields['backend']}"
        )
    try:
        config = _config(fields, 0, str(folder), {})
    except msgspec.ValidationError as error:
        raise _UnreadableError(f"failed to read {file}: {error}") from error
    what = refusal(config)
    if not what and not completes and config.backend in DEFAULT_FILENAMES:
        what = fault(config)
    if what:
        raise _UnreadableError(what)
    chosen = _chosen(fields["version_policy"], present, is_ensemble=config.backend == "ensemble")
    if not chosen:
        there = f"it has {', '.join(map(str, present))}" if present else f"make a directory such as {folder / '1'}"
        if _waits_for_weights(folder):
            there = f"its weights are not fetched: tritium models pull {name}"
        return [
            BrokenModel(
                name,
                f"at least one version must be available under the version policy of model '{name}': {there}",
                is_known=True,
            )
        ]
    if config.backend not in DEFAULT_FILENAMES:
        config = msgspec.structs.replace(config, instance_group=_engine_groups(given))
    return [
        msgspec.structs.replace(
            config,
            version=version,
            path=str(folder / str(version)),
            arguments=_arguments(folder / str(version), fields["default_model_filename"], config.backend),
        )
        for version in chosen
    ]


def _parse(folder: Path, config_name: str | None, completes: bool, override: str | None) -> tuple[Fields, Path]:
    """The fields, and the file that they came from."""
    file = folder / "config.pbtxt"
    if config_name and (folder / "configs" / f"{config_name}.pbtxt").is_file():
        file = folder / "configs" / f"{config_name}.pbtxt"
    try:
        if override is not None:
            return read_json(override), file
        # As Triton: comments may be of any encoding.
        return read_text(file.read_text(encoding="utf-8", errors="replace")), file
    except FileNotFoundError as error:
        if completes and _says_what_it_is(folder):
            return read_text(""), file
        raise _UnreadableError(f"model configuration is not provided: {file} does not exist") from error
    except OSError as error:
        raise _UnreadableError(f"failed to read {file}: {error}") from error
    except PbtxtError as error:
        raise _UnreadableError(f"failed to read text proto from {file}: {error}") from error


def _says_what_it_is(folder: Path) -> bool:
    """Whether the name of a file tells the backend of a model that has no configuration."""
    names = {*DEFAULT_FILENAMES.values(), "model.graphdef"}
    return any((folder / str(version) / name).exists() for version in _versions(folder) for name in names)


def _nameless(fields: Fields, name: str, file: Path) -> str:
    if fields["platform"]:
        return f"unexpected platform type '{fields['platform']}' for {name}"
    return f"no backend or known platform in the configuration of model '{name}': set 'backend' in {file}"


def _config(fields: Fields, version: int, path: str, arguments: dict[str, Any]) -> ModelConfig:
    document = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    config = read(document, version=version, path=path, arguments=arguments)
    return msgspec.structs.replace(config, backend="ensemble") if fields["platform"] == "ensemble" else config


def _engine_groups(given: list[Fields]) -> tuple[InstanceGroup, ...]:
    """As they were given: an engine without a group is one process that sees all GPUs."""
    return tuple(
        InstanceGroup(count=max(1, group["count"]), kind=group["kind"], gpus=tuple(group["gpus"])) for group in given
    )


def _chosen(policy: Mapping[str, Any], present: list[int], *, is_ensemble: bool) -> list[int]:
    """The version directories that the policy chooses. An ensemble needs none: there is nothing to keep in it."""
    if is_ensemble and not present:
        present = [1]
    if "specific" in policy:
        wanted = policy["specific"].get("versions", [])
        return [version for version in present if version in wanted]
    # As Triton: a policy that says nothing is none.
    return present[-policy["latest"]["num_versions"] :] if "latest" in policy else present


def _versions(folder: Path) -> Iterator[int]:
    for entry in folder.iterdir():
        digits = entry.name
        # As Triton: what starts with a zero is no version, nor what is more than 64 bits hold.
        if (
            digits.isascii()
            and digits.isdigit()
            and digits[0] != "0"
            and entry.is_dir()
            and int(digits) <= _LAST_VERSION
        ):
            yield int(digits)


def _arguments(directory: Path, default_model_filename: str, backend: str) -> dict[str, Any]:
    """The engine arguments beside the model; a configuration that names a file must find it."""
    named = default_model_filename.endswith(".json")
    file = directory / (default_model_filename if named else _ARGUMENTS.get(backend, _DEFAULT_ARGUMENTS))
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


def gpus() -> tuple[int, ...]:
    """The GPUs that a model without a choice of its own runs on, numbered as CUDA numbers them here."""
    count = sum(1 for device in Path("/dev").glob("nvidia*") if device.name.removeprefix("nvidia").isdigit())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = min(count, len([name for name in visible.split(",") if name.strip()]))
    return tuple(range(count))
