"""Loading and unloading that models themselves ask for, by the rules that clients are held to."""

from __future__ import annotations

from collections.abc import Mapping

from backends.tensors import Buffer
from gateway.kserve import repository
from gateway.plane import Plane


class FromModels:
    """A `ModelControl` for the models that this server process knows."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def load(self, name: str, config: str, files: Mapping[str, Buffer]) -> None:
        parameters: dict[str, str | bytes] = {key: bytes(data) for key, data in files.items()}
        if config:
            parameters["config"] = config
        await repository.load(self._plane, name, parameters)

    async def unload(self, name: str, *, unload_dependents: bool) -> None:
        await repository.unload(self._plane, name, dependents=unload_dependents)
