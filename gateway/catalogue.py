"""`tritium models`: what a server serves or a model repository holds, and the weights fetched into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from backends.config import ModelConfig
from backends.errors import InvalidRequest, ModelNotFound
from backends.repository import load
from backends.weights import missing, pull
from gateway.client import NoAnswer, Server

NOT_SERVED = "not served"


def list_models(server: Server, repositories: Sequence[Path], config_name: str, output: Console) -> None:
    """A table of the models of a running server, or of the repositories where no server answers."""
    columns: tuple[str, ...]
    try:
        rows = _served(server)
        columns = ("model", "state", "backend", "context", "endpoints", "capabilities")
    except NoAnswer:
        columns = ("model", "state", "backend")
        rows = _stored(repositories, config_name)
    if not output.is_terminal:
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    output.print(table)


def show_model(name: str, server: Server, repositories: Sequence[Path], config_name: str) -> None:
    """Everything about one model as `key: value` lines; its state from a running server, its configuration from disk.

    Raises `ModelNotFound` where neither knows it.
    """
    configs = [config for config in _configs(repositories, config_name) if config.name == name]
    try:
        facts: dict[str, Any] = dict(server.get(f"/v1/models/{quote(name, safe='')}"))
    except NoAnswer as error:
        if not configs:
            places = ", ".join(map(str, repositories))
            raise ModelNotFound(f"no model {name!r} in {places}, and {error}") from error
        facts = {"id": name, "state": NOT_SERVED}
    for config in configs:
        facts["backend"] = config.backend
        facts[f"version {config.version}"] = config.path
        facts["parameters"] = config.parameters
        facts["arguments"] = config.arguments
    for key, value in facts.items():
        print(f"{key}: {_plain(value)}")


def control_model(server: Server, name: str, action: str) -> None:
    """Have a running server load, unload or drain a model, and say what it is now. Raises `ServerError`."""
    answer = server.post(f"/admin/models/{quote(name, safe='')}/{action}")
    print(f"{answer['name']}: {answer['state']}")


def pull_model(name: str, repositories: Sequence[Path], output: Console) -> None:
    """Fetch what the model's manifest names and its folder lacks, with a progress bar a file.

    Raises `ModelNotFound`, or `WeightsError` with why each source failed.
    """
    path = _folder(name, repositories)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output, transient=True, disable=not output.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(Path(file).name, total=total)
            bars.update(tasks[file], completed=done)

        fetched = pull(path, progress)
    for file in fetched:
        output.print(f"{path / file}: fetched", markup=False, soft_wrap=True)
    if not fetched:
        output.print(f"{name}: all weights are here", markup=False, soft_wrap=True)


def _folder(name: str, repositories: Sequence[Path]) -> Path:
    """The folder of a model. Raises `ModelNotFound` with the names there are."""
    for repository in repositories:
        if name and (repository / name).is_dir() and Path(name).name == name:
            return repository / name
    there = sorted({entry.name for path in repositories if path.is_dir() for entry in path.iterdir() if entry.is_dir()})
    raise ModelNotFound(
        f"no model {name!r} in {', '.join(map(str, repositories))}; there is {', '.join(there) or 'none'}"
    )


def _served(server: Server) -> list[tuple[str, ...]]:
    return [
        (
            str(model["id"]),
            str(model.get("state", "")),
            str(model.get("backend", "")),
            str(model.get("context_length") or model.get("max_model_len") or ""),
            _ready(model.get("endpoints", {})),
            " ".join(model.get("capabilities", ())),
        )
        for model in server.get("/v1/models")["data"]
    ]


def _ready(states: Mapping[str, int]) -> str:
    """How many endpoints are ready of how many, as in 2/3; nothing where the server does not tell."""
    return f"{states.get('READY', 0)}/{sum(states.values())}" if states else ""


def _stored(repositories: Sequence[Path], config_name: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for model in load(repositories, config_name or None):
        if isinstance(model, ModelConfig):
            state = "weights not fetched" if missing(Path(model.path).parent) else NOT_SERVED
            rows.append((model.name, state, model.backend))
        else:
            rows.append((model.name, model.reason, ""))
    return rows


def _configs(repositories: Sequence[Path], config_name: str) -> Iterable[ModelConfig]:
    """None without a repository at hand: a server elsewhere may be asked all the same."""
    try:
        return [model for model in load(repositories, config_name or None) if isinstance(model, ModelConfig)]
    except InvalidRequest:
        return []


def _plain(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value)
