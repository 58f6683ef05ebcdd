"""The models that the supervisor runs: loaded, reloaded, drained and unloaded while they serve."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from backends.config import ModelConfig
from backends.engine import naming
from backends.engine.process import EngineProcess
from backends.errors import InvalidRequest, ModelNotFound, ModelNotReady, ServingError
from backends.model import State
from gateway import composition
from gateway.choice import NoVersion, choose, parts
from gateway.lives import Burden, Lives, without
from gateway.loading import LiveEndpoint, LoadedModel, Place, failed, look, prepare, replace
from gateway.overrides import Override, Overrides
from gateway.settings import Settings
from gateway.snapshot import ModelStatus

_logger = logging.getLogger(__name__)

_FILE_LOOK_SECONDS = 1.0


class NotLoaded(ModelNotReady):
    """Versions of a model did not become ready; `causes` says why of each, in Triton's words."""

    def __init__(self, message: str, causes: Mapping[int, str]) -> None:
        super().__init__(message)
        self.causes = causes


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
        self.unloading: Counter[str] = Counter()
        """Models that are gone, of which something runs still."""
        self._settings = settings
        self._changed = changed
        self._lives = Lives(changed, burden, settings.exit_timeout_secs)
        self._place = Place(settings, runtime_dir, changed)
        self._overrides = Overrides(settings, runtime_dir)
        self._models: dict[str, list[LoadedModel]] = {}
        self._past: dict[str, dict[int, str]] = {}
        self._implicit: set[str] = set()
        self._departing: dict[str, list[LiveEndpoint]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Load what the settings choose. Raises `InvalidRequest` where they make no sense."""
        chosen = await asyncio.to_thread(choose, self._settings)
        for model in await prepare(chosen, self._place):
            self._models.setdefault(model.config.name, []).append(model)
        self._lives.start(endpoint for model in self._all() for endpoint in model.endpoints)
        self._changed.set()

    @property
    def settled(self) -> bool:
        """Whether every model was ready or has failed once."""
        return all(composition.settled(model, self._models) for model in self._all())

    @property
    def snapshot_number(self) -> int:
        """Of the last snapshot that was made of this."""
        return self._lives.snapshot_number

    @snapshot_number.setter
    def snapshot_number(self, number: int) -> None:
        self._lives.snapshot_number = number

    @property
    def is_changing(self) -> bool:
        """Whether the next snapshot will be another one."""
        return self._changed.is_set()

    def has_files(self, name: str) -> bool:
        """Whether files that a client sent stand for a model's folder."""
        return self._overrides.has_files(name)

    @property
    def models(self) -> composition.Models:
        """What is loaded, by name."""
        return self._models

    @property
    def past(self) -> Mapping[str, Mapping[int, str]]:
        """Versions that were there once, and in Triton's words what became of them."""
        return self._past

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every version of every model, ordered by name."""
        return tuple(self._status(model) for _, versions in sorted(self._models.items()) for model in versions)

    def describe(self) -> list[dict[str, Any]]:
        """The same for people: names, states, and why a model or an endpoint is not ready."""
        return [
            composition.described(model, self._status(model))
            for _, versions in sorted(self._models.items())
            for model in versions
        ]

    def notice(self) -> None:
        """Something has changed: whoever waits for it looks again."""
        self._news.set()
        self._news = asyncio.Event()

    def tasks(self) -> list[asyncio.Task[None]]:
        """The lives of all endpoints, to be ended at the end: the caller cancels and awaits them."""
        return self._lives.tasks()

    def close(self) -> None:
        self._overrides.close()
        self._place.close()

    async def load(self, name: str) -> None:
        """Load a model, or load it anew: returns once it serves under the repository's configuration.

        What it ran under before serves until then, and goes on where the new one is refused: raises `ModelNotFound`,
        `InvalidRequest` for its configuration, `ModelNotReady` where an engine of it does not start.
        """
        await self.serve(await self.read(name))

    async def read(self, name: str, override: Override | None = None) -> list[ModelConfig]:
        """The versions of a model to serve next, under the override if there is one. Raises as `load`."""
        try:
            return await asyncio.to_thread(self._overrides.find, name, override)
        except NoVersion:
            self._past.setdefault(name, {})
            raise

    async def serve(self, configs: Sequence[ModelConfig], chain: tuple[str, ...] = ()) -> None:
        """Load these versions of one model, and those that an ensemble is made of where they are not; as `load`.

        `chain`: the ensembles for which it is loaded; by itself without.
        """
        name = configs[0].name
        # Nothing is locked meanwhile: ensembles that name each other would wait for each other.
        for part in parts(configs[-1]):
            if part not in (*chain, name) and not self._serves(part):
                await self._load_part(part, (*chain, name))
        async with self._lock(name):
            await self._load(configs)
            if not chain:
                self._implicit.discard(name)

    async def _load_part(self, name: str, chain: tuple[str, ...]) -> None:
        """What an ensemble needs; the ensemble's own state tells what is wrong."""
        is_new = name not in self._models
        try:
            await self.serve(await self.read(name), chain)
        except ServingError as error:
            _logger.warning("%s: it is not loaded for %s: %s", name, chain[-1], error.message)
        if is_new:
            self._implicit.add(name)

    async def unload(self, name: str, *, with_parts: bool = False) -> None:
        """Take a model out of service at once; returns when its streams are done and nothing of it runs.

        What is composed of it is `STOPPED` until it is back. With `with_parts` those models go as well that were
        loaded for it alone. Raises `ModelNotFound`.
        """
        async with self._lock(name):
            self._named(name)
            going = self._with_parts(name) if with_parts else [name]
            leaving: list[LiveEndpoint] = []
            for each in going:  # while their parts are still there
                self._remember(each, self._models[each])
            for each in going:
                models = self._models.pop(each)
                self._overrides.forget(each)
                self._implicit.discard(each)
                leaving += [endpoint for model in models for endpoint in model.endpoints]
                leaving += self._departing.get(each, ())
            self._changed.set()
            self.unloading.update(going)
            try:
                await self._lives.depart(leaving)
            finally:
                self.unloading -= Counter(going)

    def _with_parts(self, name: str) -> list[str]:
        """A model, its parts that nobody asked for and nobody needs but what goes too, and theirs."""
        going = [name]
        for each in going:  # which grows meanwhile
            staying = [model for other, models in self._models.items() if other not in going for model in models]
            needed = {part for model in staying for part in parts(model.config)}
            ours = {part for model in self._models[each] for part in parts(model.config)}
            alone = ours & self._implicit & self._models.keys()
            going += [part for part in sorted(alone) if part not in needed and part not in going]
        return going

    async def drain(self, name: str) -> None:
        """As `unload`, but the model stays listed, `STOPPED`; loading it starts it again."""
        async with self._lock(name):
            await self._lives.depart([endpoint for model in self._named(name) for endpoint in model.endpoints])

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
                if self._status(model).state is not State.STOPPED:
                    self._swap(name, [*versions[:number], await self._replaced(model), *versions[number + 1 :]])

    async def _replaced(self, model: LoadedModel) -> LoadedModel:
        after = await replace(model.config, model, self._place, self._place.generation())
        fresh = without(after.endpoints, model.endpoints)
        self._lives.start(fresh)
        await self._until(lambda: all(endpoint.status.settled for endpoint in fresh))
        return after

    async def _load(self, configs: Sequence[ModelConfig]) -> None:
        name = configs[0].name
        versions = self._models.get(name, [])
        before = {model.config.version: model for model in versions}
        generation = self._place.generation() if versions or self.unloading[name] else 0
        serves = self._serves(name)
        try:
            after = [await replace(config, before.get(config.version), self._place, generation) for config in configs]
            self._check_names(after)
        except ServingError as error:
            if not serves:
                self._swap(name, [failed(config, error) for config in configs])
            raise
        kept = [endpoint for model in versions for endpoint in model.endpoints]
        fresh = without([endpoint for model in after for endpoint in model.endpoints], kept)
        if not serves:
            self._swap(name, after)
        self._lives.start(fresh)
        try:
            await self._until(lambda: all(self._is_settled(model) for model in after))
            self._check_ready(after, fresh)
        except BaseException:
            if serves:
                await self._lives.end(fresh)
            raise
        if serves:
            self._swap(name, after)
        self._overrides.keep(name)

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
        leaving = without(
            [endpoint for model in before for endpoint in model.endpoints],
            [endpoint for model in after for endpoint in model.endpoints],
        )
        departing = self._departing.setdefault(name, [])
        after[-1].departing = departing  # the last version is the one that server processes have
        self._remember(name, before)
        self._models[name] = after
        self._changed.set()
        self._lives.see_off(departing, leaving)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    def _check_ready(self, models: Sequence[LoadedModel], fresh: Sequence[LiveEndpoint]) -> None:
        """Raises `NotLoaded` where an engine failed to start, or a version has nothing that serves."""
        statuses = [self._status(model) for model in models]
        causes = {
            status.config.version: composition.cause(model, status)
            for model, status in zip(models, statuses, strict=True)
            if status.state is not State.READY
        }
        for endpoint in fresh:
            if isinstance(endpoint, EngineProcess) and endpoint.status.state is State.FAILED:
                raise NotLoaded(f"The engine {endpoint.id} does not start: {endpoint.status.reason}", causes)
        for status in statuses:
            if status.state is not State.READY:
                raise NotLoaded(f"The model {status.config.name!r} is {status.state.value}: {status.reason}", causes)

    def _remember(self, name: str, models: Sequence[LoadedModel]) -> None:
        """What Triton tells of versions that are gone: why they failed, or that they were unloaded."""
        for model in models:
            status = self._status(model)
            if model.config.version and status.is_known:
                self._past.setdefault(name, {})[model.config.version] = (
                    composition.cause(model, status) if status.state is State.FAILED else "unloaded"
                )

    def _status(self, model: LoadedModel) -> ModelStatus:
        return composition.status(model, self._models)

    def _is_settled(self, model: LoadedModel) -> bool:
        return composition.settled(model, self._models)

    def _serves(self, name: str) -> bool:
        return any(self._status(model).state is State.READY for model in self._models.get(name, []))

    def _named(self, name: str) -> list[LoadedModel]:
        if name not in self._models:
            raise ModelNotFound(f"The model '{name}' is not loaded.")
        return self._models[name]

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _all(self) -> Iterator[LoadedModel]:
        return (model for versions in self._models.values() for model in versions)
