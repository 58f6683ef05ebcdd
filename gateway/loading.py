"""What the supervisor runs for the models of the repository: configurations in, endpoints and their states out."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backends.config import ModelConfig
from backends.engine import naming, routing
from backends.engine.addresses import addresses, endpoints_file
from backends.engine.naming import Naming
from backends.engine.process import EngineProcess
from backends.engine.watch import Patience, RemoteEndpoint
from backends.errors import InvalidRequest, ModelNotFound, ServingError
from backends.model import Endpoint, State
from backends.repository import BrokenModel, load
from ensembles.kinds import find_kind
from gateway.settings import Settings
from gateway.snapshot import ModelStatus

_logger = logging.getLogger(__name__)

LiveEndpoint = EngineProcess | RemoteEndpoint

# A model is as well as its best endpoint.
_BEST_FIRST = (
    State.READY,
    State.STARTING,
    State.RESTARTING,
    State.UNHEALTHY,
    State.DRAINING,
    State.STOPPED,
    State.FAILED,
)
_GONE = {State.DRAINING, State.STOPPED, State.FAILED}


@dataclass(slots=True)
class LoadedModel:
    """One version of one model with its endpoints; none, and a reason, if it cannot be served.

    `departing` are endpoints that get no new work and finish what they have. `origins` are the folder and the number
    that each process was launched with, by id. `file_seen` is how the file of endpoints looked when it was read.
    """

    config: ModelConfig
    endpoints: Sequence[LiveEndpoint] = ()
    reason: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    naming: Naming = field(default_factory=Naming)
    weights: dict[str, float] = field(default_factory=dict)
    departing: list[LiveEndpoint] = field(default_factory=list)
    origins: dict[str, tuple[str, int]] = field(default_factory=dict)
    file_seen: tuple[int, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether it was ready or failed once."""
        return all(endpoint.status.settled for endpoint in self.endpoints)

    def status(self) -> ModelStatus:
        if not self.endpoints:
            return ModelStatus(self.config, State.FAILED, self.reason, created=self.created)
        statuses = [endpoint.status for endpoint in self.endpoints]
        current = {endpoint.id for endpoint in self.endpoints}
        best = min(statuses, key=lambda status: _BEST_FIRST.index(status.state))
        return ModelStatus(
            config=self.config,
            state=best.state,
            reason=best.reason,
            endpoints=tuple(
                Endpoint(
                    id=endpoint.id,
                    address=endpoint.address,
                    state=endpoint.status.state,
                    restarts=endpoint.status.restarts,
                    weight=self.weights.get(endpoint.id, 1.0),
                )
                for endpoint in (*self.endpoints, *self.departing)
                if endpoint in self.endpoints or endpoint.id not in current
            ),
            # A request may go to any of them.
            context_length=min((n for s in statuses if (n := s.context_length) is not None), default=None),
            created=self.created,
        )


class Place:
    """Where engines are started from, and what they have in common: sockets in `runtime_dir`, patience, news."""

    def __init__(self, settings: Settings, runtime_dir: str, changed: asyncio.Event) -> None:
        self.changed = changed
        self.patience = Patience(interval_seconds=settings.health_interval, max_restarts=settings.max_restarts)
        self._runtime_dir = runtime_dir
        self._generations = itertools.count(1)

    def generation(self) -> int:
        """A number for engines whose sockets are to stand beside older ones of the same names; never 0."""
        return next(self._generations)

    def folder(self, generation: int) -> str:
        """Where the sockets of a generation are."""
        return str(Path(self._runtime_dir) / str(generation)) if generation else self._runtime_dir

    def close(self) -> None:
        """Remove the folders that are empty by now."""
        for folder in Path(self._runtime_dir).iterdir():
            if folder.is_dir() and folder.name.isdigit():
                try:
                    folder.rmdir()
                except OSError:
                    pass


def choose(settings: Settings) -> list[ModelConfig | BrokenModel]:
    """The models to load at the start, by `--model-control-mode`: none (all), explicit (those named).

    One that is named but not there is a broken one. Raises `InvalidRequest` where the settings make no sense.
    """
    mode, names = settings.model_control_mode, settings.load_model
    if mode == "none" and names:
        raise InvalidRequest("--load-model needs --model-control-mode explicit.", param="load_model")
    found = load(settings.model_repository, settings.model_config_name or None)
    if mode == "none" or "*" in names:
        return found
    missing = sorted(set(names) - {model.name for model in found})
    return [
        *(model for model in found if model.name in names),
        *(BrokenModel(name, f"there is no such model in {_places(settings)}") for name in missing),
    ]


def find(settings: Settings, name: str) -> list[ModelConfig]:
    """The versions of one model as the repository has them now. Raises `ModelNotFound`, `InvalidRequest`."""
    found = [
        model for model in load(settings.model_repository, settings.model_config_name or None) if model.name == name
    ]
    if not found:
        raise ModelNotFound(f"There is no model '{name}' in {_places(settings)}.")
    configs = []
    for model in found:
        if isinstance(model, BrokenModel):
            raise InvalidRequest(f"Model {name!r}: {model.reason}")
        configs.append(model)
    return configs


async def prepare(models: Iterable[ModelConfig | BrokenModel], place: Place) -> list[LoadedModel]:
    """Ask each model's kind what to run. Nothing is started yet, and one that fails spoils no other."""
    loaded: list[LoadedModel] = list(await asyncio.gather(*(_prepare(model, place) for model in models)))
    taken: dict[str, Naming] = {}
    for number, model in enumerate(loaded):
        others = ((name, names) for name, names in taken.items() if name != model.config.name)
        fault = naming.clash(model.naming, model.config.name, others) if model.endpoints else None
        if fault is None:
            taken[model.config.name] = model.naming
        else:
            loaded[number] = _failed(model.config, f"Model {model.config.name!r}: {fault}.")
    return loaded


async def _prepare(model: ModelConfig | BrokenModel, place: Place) -> LoadedModel:
    if isinstance(model, BrokenModel):
        return _failed(ModelConfig(model.name, backend=""), model.reason)
    try:
        return await replace(model, None, place)
    except ServingError as error:
        return _failed(model, error.message)


async def replace(config: ModelConfig, before: LoadedModel | None, place: Place, generation: int = 0) -> LoadedModel:
    """The model under this configuration, with the endpoints of `before` whose command or address stays the same.

    Others are of this `generation`. Nothing is started or stopped. Raises `ServingError` with what is wrong with the
    configuration.
    """
    try:
        # Kinds look at files, and importing one takes its time.
        return await asyncio.to_thread(_replace, config, before, place, generation)
    except ServingError:
        raise
    except Exception as error:
        _logger.exception("%s: loading failed", config.name)
        raise ServingError(f"loading failed: {error!r}") from error


def look(config: ModelConfig) -> tuple[int, ...]:
    """What changes when the model's file of endpoints is written; empty without one."""
    path = endpoints_file(config)
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _replace(config: ModelConfig, before: LoadedModel | None, place: Place, generation: int) -> LoadedModel:
    routing.read(config)
    model = LoadedModel(config, naming=naming.read(config), file_seen=look(config))
    if before is not None:
        model.created = before.created
    model.endpoints = (*_processes(model, before, place, generation), *_remote(model, before, place))
    if not model.endpoints:
        raise InvalidRequest(f"Model {config.name!r} has neither an instance nor an endpoint.")
    return model


def _processes(model: LoadedModel, before: LoadedModel | None, place: Place, generation: int) -> list[EngineProcess]:
    """A process is kept where its command, written for the folder that it was launched from, is the same as before."""
    config = model.config
    launch = find_kind(config.backend).launch
    running = {} if before is None else _running(before)
    origins = {process.id: origin for origin, process in running.items()}
    folder = place.folder(generation)
    commands = launch(config, runtime_dir=folder)
    again = {origin: launch(config, runtime_dir=origin) for origin, _ in running}
    processes = []
    for number, command in enumerate(commands):
        kept = next(
            (
                process
                for (origin, its_number), process in running.items()
                if its_number == number and len(again[origin]) > number and again[origin][number] == process.command
            ),
            None,
        )
        if kept is None:
            Path(folder).mkdir(mode=0o700, exist_ok=True)
            name = f"{config.name}-{config.version}-{number}" + (f".{generation}" if generation else "")
            kept = EngineProcess(name, command, config.name, place.changed, place.patience)
        model.origins[kept.id] = origins.get(kept.id, (folder, number))
        processes.append(kept)
    return processes


def _running(model: LoadedModel) -> dict[tuple[str, int], EngineProcess]:
    """The processes that can be kept, by where they were launched."""
    return {
        model.origins[endpoint.id]: endpoint
        for endpoint in model.endpoints
        if isinstance(endpoint, EngineProcess) and endpoint.status.state not in _GONE
    }


def _remote(model: LoadedModel, before: LoadedModel | None, place: Place) -> list[RemoteEndpoint]:
    """Named by their address: several gateways, and this one after a change, call them the same."""
    config = model.config
    known = {
        endpoint.address: endpoint
        for endpoint in ([] if before is None else before.endpoints)
        if isinstance(endpoint, RemoteEndpoint) and endpoint.status.state not in _GONE
    }
    found = []
    for address in addresses(config):
        endpoint = known.get(address.url)
        if endpoint is None:
            name = f"{config.name}-{config.version}-{address.url.partition('://')[2]}"
            endpoint = RemoteEndpoint(name, address.url, config.name, place.changed, place.patience)
        model.weights[endpoint.id] = address.weight
        found.append(endpoint)
    return found


def _failed(config: ModelConfig, reason: str) -> LoadedModel:
    _logger.warning("%s: FAILED (%s)", config.name, reason)
    return LoadedModel(config, reason=reason)


def _places(settings: Settings) -> str:
    return ", ".join(str(path) for path in settings.model_repository)
