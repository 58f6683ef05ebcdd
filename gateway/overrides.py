"""What clients have put in the place of a model's own configuration and files."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from backends.repository import folders
from gateway.choice import find, stamp
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Override:
    """What a client loads a model with: a configuration in JSON, and files by their path in the model's folder.

    The files are copied from where they lie. With files the repository's folder does not count.
    """

    config: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


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
            if override.files and override.config is None:
                raise InvalidRequest(f"Model {name!r}: files without a configuration.", param="config")
            files = self._copy(name, override.files) if override.files else None
            known = _Known(override, files, self._stamp(name))
        configs = (
            find(self._settings, name)
            if known is None
            else find(self._settings, name, known.override.config, known.files)
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
            file = folder if "\0" in path else (folder / path).resolve()  # no file has such a name
            if folder.resolve() not in file.parents:
                raise InvalidRequest(f"Model {name!r}: the file {path!r} is not inside the model's folder.")
            try:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(source, file)
            except OSError as error:
                raise InvalidRequest(f"Model {name!r}: the file {path!r} cannot be written: {error}.") from error
        return folder
