"""What the supervisor runs for the models of the repository: configurations in, endpoints and their states out."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from backends.completion import DEFAULT_FILENAMES
from backends.config import ModelConfig, beside
from backends.engine import naming, routing
from backends.engine.addresses import addresses, endpoints_file
from backends.engine.command import Command
from backends.engine.naming import Naming
from backends.engine.process import EngineProcess
from backends.engine.watch import FailedForGoodError, Patience, RemoteEndpoint
from backends.errors import InvalidRequest, ServingError
from backends.model import Endpoint, State
from backends.repository import BrokenModel, adopted, completed, gpus
from backends.validation import fault, group_fault
from backends.worker.options import OPTIONS_VARIABLE, Options
from ensembles.kinds import find_kind
from gateway import pairs
from gateway.choice import is_composed, version_stamp
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
    that each process was launched with, by id. `file_seen` is how the file of endpoints looked when it was read,
    `stamp` how the files of a worker's model did. `cause` is the reason in Triton's words. `is_known`: its
    configuration can be used. `completed` is a composed model's configuration once its parts were ready.
    """

    config: ModelConfig
    endpoints: Sequence[LiveEndpoint] = ()
    reason: str = ""
    cause: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    naming: Naming = field(default_factory=Naming)
    weights: dict[str, float] = field(default_factory=dict)
    departing: list[LiveEndpoint] = field(default_factory=list)
    origins: dict[str, tuple[str, int]] = field(default_factory=dict)
    file_seen: tuple[int, ...] = ()
    stamp: int = 0
    is_known: bool = True
    completed: ModelConfig | None = None
    _served: tuple[str, ModelConfig] | None = None

    @property
    def served(self) -> ModelConfig:
        """The configuration that it is served under: `config`, once a worker has completed it from the model."""
        document = next((endpoint.status.document for endpoint in self.endpoints if endpoint.status.document), "")
        if not document:
            return self.config
        if self._served is None or self._served[0] != document:
            self._served = document, completed(self.config, document)
        return self._served[1]

    @property
    def settled(self) -> bool:
        """Whether it was ready or failed once."""
        return all(endpoint.status.settled for endpoint in self.endpoints)

    def status(self) -> ModelStatus:
        if not self.endpoints:
            return ModelStatus(self.config, State.FAILED, self.reason, created=self.created, is_known=self.is_known)
        statuses = [endpoint.status for endpoint in self.endpoints]
        current = {endpoint.id for endpoint in self.endpoints}
        best = min(statuses, key=lambda status: _BEST_FIRST.index(status.state))
        return ModelStatus(
            config=self.served,
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
        self.runtime_dir = runtime_dir
        self.worker_environment = {OPTIONS_VARIABLE: msgspec.json.encode(_options(settings, runtime_dir)).decode()}
        self._generations = itertools.count(1)

    def generation(self) -> int:
        """A number for engines whose sockets are to stand beside older ones of the same names; never 0."""
        return next(self._generations)

    def folder(self, generation: int) -> str:
        """Where the sockets of a generation are."""
        return str(Path(self.runtime_dir) / str(generation)) if generation else self.runtime_dir

    def close(self) -> None:
        """Remove the folders that are empty by now."""
        for folder in Path(self.runtime_dir).iterdir():
            if folder.is_dir() and folder.name.isdigit():
                try:
                    folder.rmdir()
                except OSError:
                    pass


async def prepare(models: Iterable[ModelConfig | BrokenModel], place: Place) -> list[LoadedModel]:
    """Ask each model's kind what to run. Nothing is started yet, and one that fails spoils no other."""
    loaded: list[LoadedModel] = list(await asyncio.gather(*(_prepare(model, place) for model in models)))
    taken: dict[str, Naming] = {}
    for number, model in enumerate(loaded):
        others = ((name, names) for name, names in taken.items() if name != model.config.name)
        fault = None if model.reason else naming.clash(model.naming, model.config.name, others)
        if fault is None:
            taken[model.config.name] = model.naming
        else:
            loaded[number] = failed(model.config, InvalidRequest(f"Model {model.config.name!r}: {fault}."))
    return loaded


async def _prepare(model: ModelConfig | BrokenModel, place: Place) -> LoadedModel:
    if isinstance(model, BrokenModel):
        nothing = ModelConfig(model.name, backend="", version=0)
        return failed(nothing, InvalidRequest(model.reason), is_known=model.is_known)
    try:
        return await replace(model, None, place)
    except ServingError as error:
        return failed(model, error)


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
    if is_composed(config):
        find_kind(config.backend).launch(config, runtime_dir="")
        return model
    if config.backend in DEFAULT_FILENAMES:
        model.stamp = version_stamp(Path(config.path))
        _check_worker(config)
    model.endpoints = (*_processes(model, before, place, generation), *_remote(model, before, place))
    if not model.endpoints:
        raise InvalidRequest(f"Model {config.name!r} has neither an instance nor an endpoint.")
    return model


def _processes(model: LoadedModel, before: LoadedModel | None, place: Place, generation: int) -> list[EngineProcess]:
    """A process is kept where its command, written for the folder that it was launched from, is the same as before."""
    config = model.config
    launch = _launcher(config, place)
    running = {} if before is None or _is_other(model, before) else _running(before)
    origins = {process.id: origin for origin, process in running.items()}
    folder = place.folder(generation)
    commands = launch(folder)
    again = {origin: launch(origin) for origin, _ in running}
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
            judge = partial(_judge, config)
            kept = EngineProcess(name, command, config.name, place.changed, place.patience, judge)
        model.origins[kept.id] = origins.get(kept.id, (folder, number))
        processes.append(kept)
    return processes


def _launcher(config: ModelConfig, place: Place) -> Callable[[str], Sequence[Command]]:
    """What is started for a folder of sockets: as the kind says, and workers are told the gateway's options."""
    kind = find_kind(config.backend)

    def launch(folder: str) -> Sequence[Command]:
        return [
            command
            if command.config is None
            else dataclasses.replace(command, env={**place.worker_environment, **command.env})
            for command in kind.launch(config, runtime_dir=folder)
        ]

    return launch


def _is_other(model: LoadedModel, before: LoadedModel) -> bool:
    """Whether a worker would load something else now, though its command may be the same."""
    return model.stamp != before.stamp or (bool(model.stamp) and model.config != before.config)


def _check_worker(config: ModelConfig) -> None:
    """Raises `InvalidRequest` where no instance could load the model, whatever it says of itself."""
    what = group_fault(config, gpus())
    if what:
        raise InvalidRequest(what)
    for output in config.output:
        file = beside(config, output.label_filename)
        if output.label_filename and not file.is_file():
            raise ServingError(f"failed to open text file for read {file}: No such file or directory")


def _judge(config: ModelConfig, document: str) -> None:
    """Raises `FailedForGoodError` where a model cannot be served under its completed configuration."""
    try:
        what = fault(completed(config, document))
    except InvalidRequest as error:
        what = error.message
    if what:
        raise FailedForGoodError(f"Invalid argument: {what}")


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
            endpoint = RemoteEndpoint(name, address.url, config.name, place.changed, place.patience, *_routes(config))
        model.weights[endpoint.id] = address.weight
        found.append(endpoint)
    return found


def _routes(config: ModelConfig) -> tuple[str | None, tuple[str, Callable[[str], str]] | None]:
    """The route by which a server of other people says that it can serve, and what it says of the model."""
    if config.backend != "kserve":
        return None, None
    version = config.parameters.get("model_version")
    model = f"/v2/models/{config.parameters.get('model') or config.name}{f'/versions/{version}' if version else ''}"
    return f"{model}/ready", (f"{model}/config", partial(adopted, config))


def is_same(model: LoadedModel, found: ModelConfig | BrokenModel) -> bool:
    """Whether the repository has what this version was loaded from."""
    if isinstance(found, BrokenModel):
        return not model.endpoints and model.reason == found.reason
    return model.config == found and (not model.stamp or model.stamp == version_stamp(Path(found.path)))


def failed(config: ModelConfig, error: ServingError, *, is_known: bool = True) -> LoadedModel:
    """A version that cannot be served."""
    _logger.warning("%s: FAILED (%s)", config.name, error.message)
    return LoadedModel(config, reason=error.message, cause=cause(error), is_known=is_known)


def cause(error: ServingError) -> str:
    """Why a version cannot be served, as Triton's index says it."""
    return f"{'Invalid argument' if isinstance(error, InvalidRequest) else 'Internal'}: {error.message}"


def _options(settings: Settings, runtime_dir: str) -> Options:
    return Options(
        cache_bytes=int(settings.cache_config.rpartition("=")[2] or 0),
        completes=not settings.disable_auto_complete_config,
        resources_path=str(Path(runtime_dir) / "resources") if settings.rate_limit != "off" else "",
        resources=settings.rate_limit_resource,
        has_quantiles=pairs.metrics(settings.metrics_config).summaries,
    )
