"""Triton's model repository extension over the fleet: the index, loading and unloading, in Triton's words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from backends.errors import Code, InferenceError, ModelNotFound, ServingError
from backends.model import State
from backends.repository import folders
from gateway import composition
from gateway.choice import NoVersion
from gateway.fleet import Fleet, NotLoaded
from gateway.loading import cause
from gateway.overrides import Override
from gateway.settings import Settings

_STATES = {State.READY: "READY", State.STARTING: "LOADING", State.DRAINING: "UNLOADING"}
_DUPLICATE = "model appears in two or more repositories"
# What still runs after so long ends by itself; the index says UNLOADING until then.
_UNLOAD_SECONDS = 2.0


class ModelControl:
    """`tasks` are unloads that go on though they were answered."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet
        self._unloading: set[asyncio.Task[None]] = set()

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._unloading)

    async def index(self) -> list[dict[str, str]]:
        """Every folder of the repositories, with what became of each of its versions."""
        found = await asyncio.to_thread(folders, self._settings.model_repository)
        return [entry for name, places in found.items() for entry in self._entries(name, len(places))]

    async def load(self, name: str, override: Override | None) -> None:
        """Load a model, and return when it serves. Raises `InferenceError`."""
        try:
            configs = await self._fleet.read(name, override)
        except NoVersion as error:
            text = error.message.partition(f"'{name}'")
            raise InferenceError(f"load failed for model '{name}': {text[0]}{text[1]}\n", Code.INVALID_ARG) from error
        except ServingError as error:
            raise InferenceError(f"failed to load '{name}', failed to poll from model repository") from error
        try:
            await self._fleet.serve(configs)
        except ServingError as error:
            causes = error.causes if isinstance(error, NotLoaded) else {configs[-1].version: cause(error)}
            if configs[0].ensemble_scheduling is not None:
                why = "".join(f"{text.removeprefix('Internal: ')}\n" for text in causes.values())
            else:
                why = "".join(
                    f"version {version} is at UNAVAILABLE state: {text};\n" for version, text in causes.items()
                )
            raise InferenceError(f"load failed for model '{name}': {why}", Code.INVALID_ARG) from error

    async def unload(self, name: str, *, with_parts: bool) -> None:
        """Take a model out of service; one that is not there is none already."""
        task = asyncio.create_task(self._unload(name, with_parts=with_parts))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        await asyncio.wait({task}, timeout=_UNLOAD_SECONDS)

    async def _unload(self, name: str, *, with_parts: bool) -> None:
        try:
            await self._fleet.unload(name, with_parts=with_parts)
        except ModelNotFound:
            pass

    def _entries(self, name: str, places: int) -> Iterator[dict[str, str]]:
        """Cases: two folders; versions that are or were there; a model that is unknown, or not loaded; none of it."""
        if places > 1:
            yield {"name": name, "state": "UNAVAILABLE", "reason": _DUPLICATE}
            return
        versions = {
            version: {"state": "UNLOADING"} if self._fleet.unloading[name] else _unavailable(reason)
            for version, reason in self._fleet.past.get(name, {}).items()
        }
        models = self._fleet.models.get(name, ())
        is_known = name in self._fleet.past
        for model in models:
            status = composition.status(model, self._fleet.models)
            is_known = is_known or status.is_known
            if status.is_known and model.config.version:
                state = _STATES.get(status.state)
                versions[model.config.version] = (
                    _unavailable(composition.cause(model, status)) if state is None else {"state": state}
                )
        for version, told in sorted(versions.items()):
            yield {"name": name, "version": str(version), **told}
        if not versions and not is_known:
            yield {"name": name}


def _unavailable(reason: str) -> dict[str, Any]:
    return {"state": "UNAVAILABLE", "reason": reason}
