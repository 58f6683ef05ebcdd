"""The models that the supervisor runs: loaded, reloaded, drained and unloaded while they serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.config import ModelConfig
from backends.engine import naming
from backends.engine.process import EngineProcess
from backends.errors import InvalidRequest, ModelNotFound, ModelNotReady, ServingError
from backends.model import State
from backends.repository import BrokenModel
from gateway.loading import LiveEndpoint, LoadedModel, Place, choose, find, look, prepare, replace
from gateway.settings import Settings
from gateway.snapshot import ModelStatus

_logger = logging.getLogger(__name__)

_FILE_LOOK_SECONDS = 1.0
_IDLE_LOOK_SECONDS = 0.2
_DRAINED = {State.DRAINING, State.STOPPED}


@dataclass(frozen=True, slots=True)
class Burden:
    """What server processes have under way at each endpoint's address, all of them at this snapshot or a later one."""

    snapshot: int
    in_flight: Mapping[str, int]


class Fleet:
    """Models by name, each with its versions. `changed` is set at each change; `notice` must be called after it.

    `burden` asks all server processes; it is only asked while something drains. One change of a model waits for the
    one before it.
    """

    def __init__(
        self,
        settings: Settings,
        runtime_dir: str,
        changed: asyncio.Event,
        burden: Callable[[], Awaitable[Burden | None]],
    ) -> None:
        self.snapshot_number = 0
        """Of the last snapshot that was made of this."""
        self._settings = settings
        self._changed = changed
        self._burden = burden
        self._place = Place(settings, runtime_dir, changed)
        self._models: dict[str, list[LoadedModel]] = {}
        self._departing: dict[str, list[LiveEndpoint]] = {}
        self._lives: dict[LiveEndpoint, asyncio.Task[None]] = {}
        self._departures: set[asyncio.Task[None]] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Load what the settings choose. Raises `InvalidRequest` where they make no sense."""
        chosen = await asyncio.to_thread(choose, self._settings)
        for model in await prepare(chosen, self._place):
            self._models.setdefault(model.config.name, []).append(model)
        self._start(endpoint for model in self._all() for endpoint in model.endpoints)
        self._changed.set()

    @property
    def settled(self) -> bool:
        """Whether every model was ready or has failed once."""
        return all(model.settled for model in self._all())

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every version of every model, ordered by name."""
        return tuple(model.status() for _, versions in sorted(self._models.items()) for model in versions)

    def describe(self) -> list[dict[str, Any]]:
        """The same for people: names, states, and why a model or an endpoint is not ready."""
        return [
            {
                "name": name,
                "version": model.config.version,
                "backend": model.config.backend,
                "state": (status := model.status()).state,
                "reason": status.reason,
                "aliases": model.naming.aliases,
                "fallbacks": model.naming.fallbacks,
                "endpoints": [
                    {
                        "id": endpoint.id,
                        "address": endpoint.address,
                        "state": endpoint.status.state,
                        "reason": endpoint.status.reason,
                        "restarts": endpoint.status.restarts,
                        "weight": model.weights.get(endpoint.id, 1.0),
                    }
                    for endpoint in (*model.endpoints, *model.departing)
                ],
            }
            for name, versions in sorted(self._models.items())
            for model in versions
        ]

    def notice(self) -> None:
        """Something has changed: whoever waits for it looks again."""
        self._news.set()
        self._news = asyncio.Event()

    def tasks(self) -> list[asyncio.Task[None]]:
        """The lives of all endpoints, to be ended at the end: the caller cancels and awaits them."""
        return [*self._departures, *self._lives.values()]

    def close(self) -> None:
        self._place.close()

    async def load(self, name: str) -> None:
        """Load a model, or load it anew: returns once it serves under the repository's configuration.

        What it ran under before serves until then, and goes on where the new one is refused: raises `ModelNotFound`,
        `InvalidRequest` for its configuration, `ModelNotReady` where an engine of it does not start.
        """
        async with self._lock(name):
            await self._load(await asyncio.to_thread(find, self._settings, name))

    async def unload(self, name: str) -> None:
        """Take a model out of service at once; returns when its streams are done and nothing of it runs."""
        async with self._lock(name):
            versions = self._named(name)
            del self._models[name]
            self._changed.set()
            leaving = [endpoint for model in versions for endpoint in model.endpoints]
            await self._depart([*leaving, *self._departing.get(name, ())])

    async def drain(self, name: str) -> None:
        """As `unload`, but the model stays listed, `STOPPED`; loading it starts it again."""
        async with self._lock(name):
            await self._depart([endpoint for model in self._named(name) for endpoint in model.endpoints])

    async def reload(self) -> dict[str, str]:
        """Follow the repository: load what changed, is new or has failed, unload what is gone.

        In explicit mode it is followed for what is loaded now. Returns what became of each model: `unchanged`,
        `loaded`, `unloaded`, `drained` (which it stays), or why it was refused. Raises `InvalidRequest` where a
        repository cannot be read.
        """
        settings = self._settings
        if settings.model_control_mode == "explicit":
            settings = settings.model_copy(update={"load_model": ("*",)})
        found: dict[str, list[ModelConfig | BrokenModel]] = {}
        for model in await asyncio.to_thread(choose, settings):
            found.setdefault(model.name, []).append(model)
        names = set(self._models)
        if self._settings.model_control_mode == "none":
            names |= set(found)
        outcomes = await asyncio.gather(*(self._follow(name, found.get(name, [])) for name in sorted(names)))
        return dict(zip(sorted(names), outcomes, strict=True))

    async def watch_files(self) -> None:
        """Follow the files of endpoints until cancelled. One that cannot be used changes nothing, and is told once."""
        while True:
            await asyncio.sleep(_FILE_LOOK_SECONDS)
            for name in list(self._models):
                try:
                    await self._read_file(name)
                except ServingError as error:
                    _logger.warning("%s: its endpoints stay as they are: %s", name, error.message)
                except Exception:
                    _logger.exception("%s: its file of endpoints was not followed", name)

    async def _read_file(self, name: str) -> None:
        for number, model in enumerate(self._models.get(name, [])):
            if not model.file_seen:
                continue
            seen = await asyncio.to_thread(look, model.config)
            if not seen or seen == model.file_seen or self._lock(name).locked():
                continue
            async with self._lock(name):
                versions = self._models.get(name, [])
                if len(versions) <= number or versions[number] is not model:
                    continue
                model.file_seen = seen
                if model.status().state is not State.STOPPED:
                    self._swap(name, [*versions[:number], await self._replaced(model), *versions[number + 1 :]])

    async def _replaced(self, model: LoadedModel) -> LoadedModel:
        after = await replace(model.config, model, self._place, self._place.generation())
        fresh = _without(after.endpoints, model.endpoints)
        self._start(fresh)
        await self._until(lambda: all(endpoint.status.settled for endpoint in fresh))
        return after

    async def _follow(self, name: str, found: Sequence[ModelConfig | BrokenModel]) -> str:
        """One model's part of a reload: what became of it."""
        versions = self._models.get(name, [])
        if versions and found and all(model.status().state in _DRAINED for model in versions):
            return "drained"  # by somebody, who will load it again
        is_same = [model.config for model in versions] == list(found)
        if is_same and not any(model.status().state is State.FAILED for model in versions):
            return "unchanged"
        try:
            if not found:
                await self.unload(name)
                return "unloaded"
            await self.load(name)
        except ServingError as error:
            _logger.warning("%s: the reload is refused: %s", name, error.message)
            return error.message
        return "loaded"

    async def _load(self, configs: Sequence[ModelConfig]) -> None:
        name = configs[0].name
        versions = self._models.get(name, [])
        before = {model.config.version: model for model in versions}
        generation = self._place.generation() if versions else 0
        after = [await replace(config, before.get(config.version), self._place, generation) for config in configs]
        self._check_names(after)
        kept = [endpoint for model in versions for endpoint in model.endpoints]
        fresh = _without([endpoint for model in after for endpoint in model.endpoints], kept)
        serves = any(model.status().state is State.READY for model in versions)
        if not serves:
            self._swap(name, after)
        self._start(fresh)
        try:
            await self._until(lambda: all(model.settled for model in after))
            _check_ready(after, fresh)
        except BaseException:
            if serves:
                await self._end(fresh)
            raise
        if serves:
            self._swap(name, after)

    def _check_names(self, after: Sequence[LoadedModel]) -> None:
        """Raises `InvalidRequest` where an alias is taken."""
        for model in after:
            name = model.config.name
            others = (
                (other, each.naming) for other, versions in self._models.items() if other != name for each in versions
            )
            fault = naming.clash(model.naming, name, others)
            if fault is not None:
                raise InvalidRequest(f"Model {name!r}: {fault}.", param="aliases")

    def _swap(self, name: str, after: list[LoadedModel]) -> None:
        """From here on requests go by the new versions; endpoints that only the old ones had depart."""
        before = self._models.get(name, [])
        leaving = _without(
            [endpoint for model in before for endpoint in model.endpoints],
            [endpoint for model in after for endpoint in model.endpoints],
        )
        departing = self._departing.setdefault(name, [])
        departing += leaving
        after[-1].departing = departing  # the last version is the one that server processes have
        self._models[name] = after
        self._changed.set()
        for endpoint in leaving:
            endpoint.drain()
        if leaving:
            task = asyncio.create_task(self._see_off(departing, leaving))
            self._departures.add(task)
            task.add_done_callback(self._departures.discard)

    async def _see_off(self, departing: list[LiveEndpoint], leaving: Sequence[LiveEndpoint]) -> None:
        await self._depart(leaving)
        departing[:] = _without(departing, leaving)
        self._changed.set()

    async def _depart(self, endpoints: Sequence[LiveEndpoint]) -> None:
        """Give them no new work, and end each when it is idle or the time to drain is over."""
        for endpoint in endpoints:
            if endpoint in self._lives:
                endpoint.drain()
        try:
            async with asyncio.timeout(self._settings.exit_timeout_secs):
                waiting = [endpoint for endpoint in endpoints if endpoint in self._lives]
                self._changed.set()
                # The snapshot that takes them out of service is the next one that is made.
                after = self.snapshot_number + 1
                while waiting:
                    burden = await self._burden()
                    if burden is not None and burden.snapshot >= after:
                        idle = [endpoint for endpoint in waiting if not burden.in_flight.get(endpoint.address)]
                        waiting = _without(waiting, idle)
                        await self._end(idle)
                    if waiting:
                        await asyncio.sleep(_IDLE_LOOK_SECONDS)
        except TimeoutError:
            pass
        await self._end(endpoints)

    def _start(self, endpoints: Iterable[LiveEndpoint]) -> None:
        for endpoint in endpoints:
            self._lives[endpoint] = asyncio.create_task(endpoint.run(), name=endpoint.id)

    async def _end(self, endpoints: Iterable[LiveEndpoint]) -> None:
        """Processes are stopped, remote endpoints are watched no longer."""
        ending = {endpoint: self._lives[endpoint] for endpoint in endpoints if endpoint in self._lives}
        for task in ending.values():
            if not task.cancelling():  # cancelled once more, it would end at once
                task.cancel()
        if ending:
            await asyncio.wait(ending.values())
        for endpoint in ending:
            self._lives.pop(endpoint, None)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    def _named(self, name: str) -> list[LoadedModel]:
        if name not in self._models:
            raise ModelNotFound(f"The model '{name}' is not loaded.")
        return self._models[name]

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _all(self) -> Iterator[LoadedModel]:
        return (model for versions in self._models.values() for model in versions)


def _without(endpoints: Iterable[LiveEndpoint], others: Iterable[LiveEndpoint]) -> list[LiveEndpoint]:
    excluded = set(others)
    return [endpoint for endpoint in endpoints if endpoint not in excluded]


def _check_ready(models: Sequence[LoadedModel], fresh: Sequence[LiveEndpoint]) -> None:
    """Raises `ModelNotReady` where an engine failed to start, or a version has nothing that serves."""
    for endpoint in fresh:
        if isinstance(endpoint, EngineProcess) and endpoint.status.state is State.FAILED:
            raise ModelNotReady(f"The engine {endpoint.id} does not start: {endpoint.status.reason}")
    for model in models:
        status = model.status()
        if status.state is not State.READY:
            raise ModelNotReady(f"The model {status.config.name!r} is {status.state.value}: {status.reason}")
