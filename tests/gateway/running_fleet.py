"""A fleet over a repository of real echo engines, and the burden that the test says they have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backends.config import ModelConfig
from backends.model import Endpoint, State
from gateway.fleet import Fleet
from gateway.lives import Burden
from gateway.repository_watch import RepositoryWatch
from gateway.settings import Settings
from tests.servers import echo_repository
from tests.waiting import eventually_async

TENSORS = """
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
"""


class Running:
    """A fleet over a repository, published as the supervisor does it."""

    def __init__(self, folder: Path, runtime: Path, **settings: Any) -> None:
        self.folder = folder
        self.busy: dict[str, int] = {}
        self.changed = asyncio.Event()
        given = Settings(model_repository=(folder,), health_interval=0.05, **settings)
        self.fleet = Fleet(given, str(runtime), self.changed, self._burden)
        self.repository = RepositoryWatch(given, self.fleet)

    async def _burden(self) -> Burden:
        return Burden(self.fleet.snapshot_number, self.busy)

    def write(self, name: str, arguments: dict[str, Any] | None = None, config: str = "") -> None:
        (self.folder / name / "1").mkdir(parents=True, exist_ok=True)
        (self.folder / name / "config.pbtxt").write_text(f'backend: "echo"\n{config}\n')
        (self.folder / name / "1" / "model.json").write_text(json.dumps(arguments or {}))

    def endpoints(self, name: str = "m") -> dict[str, State]:
        return {
            endpoint.id: endpoint.state
            for status in self.fleet.statuses()
            if status.config.name == name
            for endpoint in status.endpoints
        }

    def served(self) -> list[tuple[ModelConfig, tuple[Endpoint, ...]]]:
        return [(status.config, status.endpoints) for status in self.fleet.statuses()]

    def addresses(self, name: str = "m") -> list[str]:
        (status,) = (status for status in self.fleet.statuses() if status.config.name == name)
        return [endpoint.address for endpoint in status.endpoints]

    def state(self, name: str = "m") -> State:
        (status,) = (status for status in self.fleet.statuses() if status.config.name == name)
        return status.state

    async def becomes(self, expected: dict[str, State], name: str = "m") -> None:
        async def holds() -> bool:
            return self.endpoints(name) == expected

        await eventually_async(holds, what=f"{expected} of {name}")

    def compose(self, name: str, of: str) -> None:
        """An ensemble that passes its text on to another model."""
        step = (
            f'model_name: "{of}" input_map {{ key: "text_input" value: "text_input" }} '
            'output_map { key: "text_output" value: "text_output" }'
        )
        (self.folder / name).mkdir()
        (self.folder / name / "config.pbtxt").write_text(
            f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ step [ {{ {step} }} ] }}'
        )


async def publish(fleet: Fleet, changed: asyncio.Event) -> None:
    """Do what the supervisor does at each change, until cancelled."""
    while True:
        await changed.wait()
        changed.clear()
        fleet.snapshot_number += 1
        fleet.notice()


@asynccontextmanager
async def running_fleet(folder: Path, models: dict[str, dict[str, Any]], **settings: Any) -> AsyncIterator[Running]:
    """Opened, published and followed until the end of the block, as the supervisor does it."""
    for name in ("run", "models"):
        (folder / name).mkdir()
    running = Running(echo_repository(folder / "models", models), folder / "run", **settings)
    await running.fleet.open()
    works = [publish(running.fleet, running.changed), running.fleet.watch_files()]
    if settings.get("model_control_mode") == "poll":
        works.append(running.repository.poll())
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield running
    finally:
        tasks += running.fleet.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        running.fleet.close()
        assert list((folder / "run").iterdir()) == []
