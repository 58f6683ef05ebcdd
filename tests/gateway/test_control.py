"""What the supervisor answers: actions and accounts as JSON, and what went wrong as an error's name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from backends.model import Load
from backends.statistics import ModelStatistics
from gateway.children import ServerChild
from gateway.control import Control, burden
from gateway.fleet import Burden, Fleet
from gateway.histogram import Histogram
from gateway.repository_watch import RepositoryWatch
from gateway.settings import Settings
from gateway.snapshot import Account, Action, Ask, Loads, Queue, Reload
from gateway.telemetry import Payload
from tests.gateway.running_fleet import publish
from tests.servers import echo_repository

pytestmark = pytest.mark.slow  # an engine is started and stopped


class Child:
    """A server process that has this account to give, or none, and keeps what it is told."""

    def __init__(self, index: int, account: Account | None) -> None:
        self.index = index
        self.account = account
        self.told: list[object] = []

    async def inspect(self, timeout_seconds: float, decisions: int = 0) -> Account | None:  # noqa: ARG002
        return self.account

    def tell(self, message: object) -> None:
        self.told.append(message)


def children(*accounts: Account | None) -> list[ServerChild]:
    return [cast("ServerChild", Child(index, account)) for index, account in enumerate(accounts)]


class Desk:
    """A control over a fleet with one echo model `m`."""

    def __init__(self, folder: Path, processes: list[ServerChild], **settings: Any) -> None:
        self.processes = processes
        given = Settings(model_repository=(folder,), **settings)
        self.changed = asyncio.Event()
        self.fleet = Fleet(given, str(folder.parent / "run"), self.changed, lambda: burden(processes))
        loads = Loads({"m-1-0": Load(running=3)})

        async def counters() -> list[tuple[str, bytes]]:
            return self.counters

        self.counters: list[tuple[str, bytes]] = []
        self.control = Control(
            given, self.fleet, RepositoryWatch(given, self.fleet), processes, lambda: loads, counters
        )

    async def ask(self, action: Action, subject: str = "") -> Any:
        told = await self.control.answer(Ask(7, action, subject))
        assert told.id == 7
        return (told.error, told.message) if told.error else json.loads(told.answer)


def account(**fields: Any) -> Account:
    return Account(0, fields.pop("snapshot", 1000), **fields)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "run").mkdir()
    address = f"unix:{tmp_path}/run/m-1.sock"
    first = account(
        in_flight={address: 2},
        queues={"m": Queue(2, {"a": 1})},
        decisions=[b'{"at":1}', b'{"at":3}'],
    )
    second = account(queues={"m": Queue(1, {"a": 1, "b": 4})}, decisions=[b'{"at":2}'])
    desk = Desk(echo_repository(tmp_path / "models", {"m": {}}), children(first, second), exit_timeout_secs=0.1)
    await desk.fleet.open()
    publishing = asyncio.create_task(publish(desk.fleet, desk.changed))
    yield desk
    tasks = [*desk.fleet.tasks(), publishing]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_actions_say_what_has_become_of_the_model(desk: Desk) -> None:
    assert await desk.ask("load", "m") == {"name": "m", "state": "READY"}
    assert await desk.ask("drain", "m") == {"name": "m", "state": "STOPPED"}
    assert await desk.ask("load", "m") == {"name": "m", "state": "READY"}
    assert await desk.ask("unload", "m") == {"name": "m", "state": "UNLOADED"}
    assert await desk.ask("models") == {"models": []}


async def test_what_is_refused_is_told_by_its_kind_and_its_message(desk: Desk) -> None:
    error, message = await desk.ask("load", "zz")
    assert error == "ModelNotFound"
    assert "'zz'" in message
    assert (await desk.ask("decisions", "many"))[0] == "ServingError"


async def test_accounts_of_all_processes_are_one_answer(desk: Desk) -> None:
    await desk.ask("load", "m")
    (model,) = (await desk.ask("endpoints"))["models"]
    (endpoint,) = model["endpoints"]
    assert endpoint["in_flight"] == {"0": 2, "1": 0}
    assert endpoint["load"] == {"waiting": 0.0, "running": 3.0, "kv_usage": 0.0}
    assert await desk.ask("queue") == {"models": {"m": {"running": 3, "waiting": {"a": 2, "b": 4}}}}
    assert await desk.ask("decisions", "2") == {"decisions": [{"at": 3}, {"at": 2}]}


async def test_what_server_processes_count_of_a_model_is_added_up(desk: Desk) -> None:
    statistics = ModelStatistics(inference_count=2)
    payload = Payload([], {}, Histogram.empty(()), 0.0, 0, statistics={("m", 1): statistics})
    desk.counters = [(str(index), msgspec.msgpack.encode(payload)) for index in range(2)]
    ((name, version, told),) = await desk.ask("statistics")
    assert (name, version, told["inference_count"]) == ("m", 1, 4)


async def test_a_reload_reaches_every_process(desk: Desk) -> None:
    assert await desk.ask("reload") == {"models": {"m": "unchanged"}}
    for child in desk.processes:
        assert cast("Child", child).told == [Reload()]


async def test_keys_that_cannot_be_used_refuse_the_whole_reload(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sha256:nonsense")
    desk = Desk(echo_repository(tmp_path / "models", {"m": {"nonsense": 1}}), children(account()), api_key_file=keys)
    error, message = await desk.ask("reload")
    assert error == "InvalidRequest"
    assert "SHA-256" in message
    assert cast("Child", desk.processes[0]).told == []


async def test_the_burden_is_known_only_if_every_process_tells() -> None:
    first, second = account(in_flight={"a": 1, "b": 2}, snapshot=5), account(in_flight={"a": 3}, snapshot=4)
    assert await burden(children(first, second)) == Burden(4, {"a": 4, "b": 2})
    assert await burden(children(first, None)) is None
