"""Which models of the repositories are wanted, and how they are found there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from backends.config import ModelConfig
from backends.errors import InvalidRequest, ModelNotFound
from backends.repository import BrokenModel, folders, load, load_one
from ensembles.answering import recipe
from ensembles.validation import refusal
from gateway import pairs
from gateway.settings import Settings


def choose(settings: Settings) -> list[ModelConfig | BrokenModel]:
    """The models to load at the start, by `--model-control-mode`: all, or those named and their parts (explicit).

    One that is named but not there is a broken one. Raises `InvalidRequest` where the settings make no sense.
    """
    mode, names = settings.model_control_mode, settings.load_model
    if mode != "explicit":
        if names:
            raise InvalidRequest("--load-model needs --model-control-mode explicit.", param="load_model")
        return _load(settings)
    if "*" in names:
        return _load(settings)
    there = folders(settings.model_repository)
    found: dict[str, list[ModelConfig | BrokenModel]] = {}
    waiting = [name for name in names if name in there]
    while waiting:
        name = waiting.pop()
        if name in there and name not in found:
            found[name] = _load_one(settings, name)
            waiting += [part for model in found[name] if isinstance(model, ModelConfig) for part in parts(model)]
    missing = sorted(set(names) - there.keys())
    return [
        *(model for _, models in sorted(found.items()) for model in models),
        *(BrokenModel(name, f"there is no such model in {places(settings)}") for name in missing),
    ]


def is_composed(config: ModelConfig) -> bool:
    """Whether a model is made of others, and has no endpoint of its own."""
    return config.ensemble_scheduling is not None or config.backend == recipe.BACKEND


def needs(config: ModelConfig) -> tuple[str, ...]:
    """Those of its parts that a composed model cannot be without: all of an ensemble's, a pipeline's generator."""
    found = parts(config)
    return found if config.ensemble_scheduling is not None else found[:1]


def parts(config: ModelConfig) -> tuple[str, ...]:
    """The models that a composed model names, each once; none where it is none."""
    scheduling = config.ensemble_scheduling
    if config.backend == recipe.BACKEND:
        return recipe.models(config.arguments)
    return () if scheduling is None else tuple(dict.fromkeys(step.model_name for step in scheduling.step))


def find(settings: Settings, name: str, override: str | None = None, files: Path | None = None) -> list[ModelConfig]:
    """The versions of one model as the repository has them now. Raises `ModelNotFound`, `InvalidRequest`.

    `override` is a configuration in JSON that stands for the model's own, `files` a folder that does.
    """
    found = _load_one(settings, name, override, files)
    if not found:
        raise ModelNotFound(f"There is no model '{name}' in {places(settings)}.")
    configs = []
    for model in found:
        if isinstance(model, BrokenModel):
            raise NoVersion(model.reason) if model.is_known else InvalidRequest(f"Model {name!r}: {model.reason}")
        configs.append(model)
    return configs


class NoVersion(InvalidRequest):
    """A model's configuration is good, and there is no version of it to serve."""


def stamp(path: Path) -> int:
    """Changes when a file in a folder is written, comes or goes; what Python keeps beside its modules is none."""
    return hash(tuple(sorted(_files(path.rglob("*")))))


def version_stamp(version: Path) -> int:
    """The same for one version of a model: its folder, and the files beside it, which all versions share."""
    return hash((stamp(version), tuple(sorted(_files(version.parent.glob("*"))))))


def _files(found: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    for file in found:
        if file.suffix != ".pyc" and file.is_file():
            told = file.stat()
            yield str(file), told.st_mtime_ns, told.st_size


def _load(settings: Settings) -> list[ModelConfig | BrokenModel]:
    completes = not settings.disable_auto_complete_config
    found = load(settings.model_repository, settings.model_config_name or None, completes=completes)
    return [_judged(settings, model) for model in found]


def _load_one(
    settings: Settings, name: str, override: str | None = None, files: Path | None = None
) -> list[ModelConfig | BrokenModel]:
    found = load_one(
        settings.model_repository,
        name,
        settings.model_config_name or None,
        completes=not settings.disable_auto_complete_config,
        override=override,
        files=files,
    )
    return [_judged(settings, model) for model in found]


def _judged(settings: Settings, model: ModelConfig | BrokenModel) -> ModelConfig | BrokenModel:
    if isinstance(model, BrokenModel):
        return model
    if model.ensemble_scheduling is None:
        sizes = pairs.batch_sizes(settings.backend_config)
        size = sizes.get(model.backend, sizes.get(""))
        return model if size is None else msgspec.structs.replace(model, default_max_batch_size=size)
    fault = refusal(model)
    return BrokenModel(model.name, fault) if fault else model


def places(settings: Settings) -> str:
    """The repositories, for people."""
    return ", ".join(str(path) for path in settings.model_repository)
