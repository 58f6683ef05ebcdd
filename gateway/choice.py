"""Which models of the repositories are wanted, and what a client has put in the place of a part of one."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.config import ModelConfig
from backends.errors import InvalidRequest, ModelNotFound
from backends.repository import BrokenModel, folders, load, load_one
from ensembles.validation import refusal
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Override:
    """What a client loads a model with: a configuration in JSON, and files by their path in the model's folder.

    The files are copied from where they lie. With files the repository's folder does not count.
    """

    config: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


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


def parts(config: ModelConfig) -> tuple[str, ...]:
    """The models that an ensemble names, each once; none where it is no ensemble."""
    scheduling = config.ensemble_scheduling
    return () if scheduling is None else tuple(dict.fromkeys(step.model_name for step in scheduling.step))


@dataclass(frozen=True, slots=True)
class _Known:
    """An override, the folder of its files if it has some, and the stamp of the model's own folder then."""

    override: Override
    files: Path | None
    stamp: int


class Overrides:
    """What models were loaded with by clients; it counts until they are unloaded or their own files change.

    Files are written into folders of their own under `runtime_dir`. One that nothing serves from any more is removed
    when the next one is written for its model; `close` removes all.
    """

    def __init__(self, settings: Settings, runtime_dir: str) -> None:
        self._settings = settings
        self._folder = Path(runtime_dir) / "overrides"
        self._next = itertools.count(1).__next__
        self._known: dict[str, _Known] = {}
        self._tried: dict[str, _Known | None] = {}
        self._copies: dict[str, list[Path]] = {}

    def find(self, name: str, override: Override | None = None) -> list[ModelConfig]:
        """The versions of one model as they are to be served next. Raises `ModelNotFound`, `InvalidRequest`.

        An override counts for later ones once it was kept.
        """
        known = None if override is not None else self._known.get(name)
        if known is not None and (known.files is not None or known.stamp != self._stamp(name)):
            known = None
        if override is not None:
            files = self._copy(name, override.files) if override.files else None
            known = _Known(override, files, self._stamp(name))
        configs = (
            find(self._settings, name) if known is None else find(self._settings, name, known.override, known.files)
        )
        self._tried[name] = known
        return configs

    def keep(self, name: str) -> None:
        """The model serves as it was found last."""
        known = self._tried.pop(name, None)
        if known is None:
            self._known.pop(name, None)
        else:
            self._known[name] = known

    def has_files(self, name: str) -> bool:
        """Whether the model runs, or is about to, from files that a client has sent."""
        return any(
            known is not None and known.files is not None for known in (self._known.get(name), self._tried.get(name))
        )

    def forget(self, name: str) -> None:
        """The model is unloaded."""
        self._known.pop(name, None)
        self._tried.pop(name, None)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stamp(self, name: str) -> int:
        return hash(tuple(stamp(folder) for folder in folders(self._settings.model_repository).get(name, [])))

    def _copy(self, name: str, files: Mapping[str, Path]) -> Path:
        if name in {"", ".", ".."} or "/" in name:
            raise InvalidRequest(f"{name!r} is no name of a model.")
        served = self._known.get(name)
        for old in self._copies.pop(name, []):
            if served is not None and served.files == old:
                self._copies.setdefault(name, []).append(old)
            else:
                shutil.rmtree(old.parent, ignore_errors=True)
        folder = self._folder / str(self._next()) / name
        self._copies.setdefault(name, []).append(folder)
        for path, source in files.items():
            file = (folder / path).resolve()
            if not file.is_relative_to(folder.resolve()):
                raise InvalidRequest(f"Model {name!r}: the file {path!r} is not inside the model's folder.")
            try:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(source, file)
            except OSError as error:
                raise InvalidRequest(f"Model {name!r}: the file {path!r} cannot be written: {error}.") from error
        return folder


def find(
    settings: Settings, name: str, override: Override | None = None, files: Path | None = None
) -> list[ModelConfig]:
    """The versions of one model as the repository has them now. Raises `ModelNotFound`, `InvalidRequest`.

    With `files` it is read from that folder instead.
    """
    if override is not None and override.files and override.config is None:
        raise InvalidRequest(f"Model {name!r}: files without a configuration.", param="config")
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
    return list(map(_judged, found))


def _load_one(
    settings: Settings, name: str, override: Override | None = None, files: Path | None = None
) -> list[ModelConfig | BrokenModel]:
    found = load_one(
        settings.model_repository,
        name,
        settings.model_config_name or None,
        completes=not settings.disable_auto_complete_config,
        override=None if override is None else override.config,
        files=files,
    )
    return list(map(_judged, found))


def _judged(model: ModelConfig | BrokenModel) -> ModelConfig | BrokenModel:
    if isinstance(model, BrokenModel) or model.ensemble_scheduling is None:
        return model
    fault = refusal(model)
    return BrokenModel(model.name, fault) if fault else model


def places(settings: Settings) -> str:
    """The repositories, for people."""
    return ", ".join(str(path) for path in settings.model_repository)
