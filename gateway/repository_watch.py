"""The repository, followed: what is new or has changed there is loaded into the fleet, what is gone is unloaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from backends.config import ModelConfig
from backends.errors import ServingError
from backends.model import State
from backends.repository import BrokenModel
from gateway import composition
from gateway.choice import choose, is_composed
from gateway.fleet import Fleet
from gateway.loading import is_same
from gateway.settings import Settings

_logger = logging.getLogger(__name__)

_DRAINED = {State.DRAINING, State.STOPPED}


class RepositoryWatch:
    """Looks at the repositories of the settings: once by `reload`, again and again by `poll`."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet

    async def reload(self, *, retries: bool = True) -> dict[str, str]:
        """Follow the repository: load what changed, is new or (with `retries`) has failed, unload what is gone.

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
        names = set(self._fleet.models)
        if self._settings.model_control_mode != "explicit":
            names |= set(found)
        outcomes = await asyncio.gather(
            *(self._follow(name, found.get(name, []), retries=retries) for name in sorted(names))
        )
        return dict(zip(sorted(names), outcomes, strict=True))

    async def poll(self) -> None:
        """Follow the repository until cancelled, in poll mode."""
        while True:
            await asyncio.sleep(self._settings.repository_poll_secs)
            try:
                await self.reload(retries=False)
            except ServingError as error:
                _logger.error("the repository is not followed: %s", error.message)  # noqa: TRY400  # it says it all
            except Exception:
                _logger.exception("the repository is not followed")

    async def _follow(self, name: str, found: Sequence[ModelConfig | BrokenModel], *, retries: bool) -> str:
        """One model's part of a reload: what became of it."""
        fleet = self._fleet
        versions = fleet.models.get(name, [])
        states = {composition.status(model, fleet.models).state for model in versions}
        is_drained = bool(versions) and states <= _DRAINED and not is_composed(versions[-1].config)
        if found and is_drained:
            return "drained"  # by somebody, who will load it again
        is_unchanged = len(versions) == len(found) and all(map(is_same, versions, found))
        if not found and fleet.has_files(name):
            return "unchanged"
        if is_unchanged and not (retries and State.FAILED in states):
            return "unchanged"
        try:
            if not found:
                await fleet.unload(name)
                return "unloaded"
            await fleet.load(name)
        except ServingError as error:
            _logger.warning("%s: the reload is refused: %s", name, error.message)
            return error.message
        return "loaded"
