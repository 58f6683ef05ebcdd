"""What server processes ask of the supervisor: model control, reloads, accounts of them all."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from backends.errors import InferenceError, ServingError
from gateway import tenants
from gateway.children import ServerChild
from gateway.exposition import statistics_of
from gateway.fleet import Fleet
from gateway.lives import Burden
from gateway.metrics import decode
from gateway.model_control import ModelControl
from gateway.overrides import Override
from gateway.questions import error_name
from gateway.repository_watch import RepositoryWatch
from gateway.settings import Settings
from gateway.snapshot import Account, Ask, Loads, Reload, Told

_logger = logging.getLogger(__name__)

_ACCOUNT_SECONDS = 2.0
_LOOK_SECONDS = 0.01


async def burden(children: Sequence[ServerChild]) -> Burden | None:
    """What all server processes have under way; None where one of them does not say."""
    accounts = await _accounts(children)
    if len(accounts) < len(children):
        return None
    in_flight: dict[str, int] = defaultdict(int)
    for account in accounts.values():
        for address, count in account.in_flight.items():
            in_flight[address] += count
    return Burden(min(account.snapshot for account in accounts.values()), in_flight)


class Control:
    """Answers for `fleet` and `children`, whose `counters` are those of telemetry.

    An action goes on though whoever asked has gone; `tasks` are those.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        repository: RepositoryWatch,
        children: Sequence[ServerChild],
        loads: Callable[[], Loads],
        counters: Callable[[], Awaitable[list[tuple[str, bytes]]]],
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._children = children
        self._loads = loads
        self._counters = counters
        self._models = ModelControl(settings, fleet)
        self._repository = repository
        self._acting: set[asyncio.Task[Any]] = set()

    def tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._acting, *self._models.tasks()]

    async def answer(self, question: Ask) -> Told:
        """Do what is asked. Errors become part of the answer."""
        try:
            found = await self._act(self._answer(question))
        except InferenceError as error:
            return Told(question.id, error=type(error).__name__, message=error.message, status=error.status)
        except ServingError as error:
            return Told(question.id, error=error_name(error), message=error.message)
        except Exception as error:
            _logger.exception("%s %s failed", question.action, question.subject)
            return Told(question.id, error=ServingError.__name__, message=f"{question.action} failed: {error!r}")
        return Told(question.id, msgspec.json.encode(found))

    async def reload(self) -> dict[str, str]:
        """Read the repository and the key file once more; what became of each model. Raises `ServingError`.

        A key file that cannot be used is refused before anything changes.
        """
        if self._settings.api_key_file is not None:
            await asyncio.to_thread(tenants.read, self._settings.api_key_file)
        outcomes = await self._repository.reload()
        for child in self._children:
            child.tell(Reload())
        _logger.info("reloaded: %s", ", ".join(f"{name}: {outcome}" for name, outcome in outcomes.items()) or "nothing")
        return outcomes

    def reload_soon(self) -> None:
        """As `reload`, for a signal: what is refused is logged."""
        self._keep(self._reload_logged())

    async def _reload_logged(self) -> None:
        try:
            await self.reload()
        except ServingError as error:
            _logger.error("the reload is refused: %s", error.message)  # noqa: TRY400  # the message says it all

    async def _act(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.shield(self._keep(work))

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)
        return task

    async def _answer(self, question: Ask) -> Any:
        fleet, subject = self._fleet, question.subject
        match question.action:
            case "load":
                await fleet.load(subject)
                await self._until_known()
            case "unload":
                await fleet.unload(subject)
                await self._until_known()
            case "index":
                return await self._models.index()
            case "kserve_load":
                order = question.order
                override = Override(order.config, {path: Path(place) for path, place in order.files.items()})
                await self._models.load(subject, None if override == Override() else override)
                await self._until_known()
            case "kserve_unload":
                await self._models.unload(subject, with_parts=question.order.with_parts)
                await self._until_known()
            case "drain":
                await fleet.drain(subject)
            case "reload":
                return {"models": await self.reload()}
            case "models" | "endpoints" | "queue" | "decisions" | "statistics":
                return await self._tell(question)
        states = [model["state"] for model in fleet.describe() if model["name"] == subject]
        return {"name": subject, "state": states[-1] if states else "UNLOADED"}

    async def _tell(self, question: Ask) -> Any:
        """What is told without a change of anything."""
        match question.action:
            case "statistics":
                counted = statistics_of(decode(payload) for _, payload in await self._counters())
                return [(*key, statistics) for key, statistics in counted.items()]
            case "models":
                return {"models": self._fleet.describe()}
            case "endpoints":
                return {"models": self._with_work(self._fleet.describe(), await _accounts(self._children))}
            case "queue":
                return {"models": _queues(await _accounts(self._children))}
            case "decisions":
                count = int(question.subject)
                return {"decisions": _decisions(await _accounts(self._children, count), count)}

    async def _until_known(self) -> None:
        """Until all server processes go by what was changed: who has loaded a model may use it at once."""
        number = self._fleet.snapshot_number + 1 if self._fleet.is_changing else self._fleet.snapshot_number
        give_up_at = monotonic() + _ACCOUNT_SECONDS
        while monotonic() < give_up_at:
            accounts = await _accounts(self._children)
            if all(account.snapshot >= number for account in accounts.values()):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _with_work(self, models: list[dict[str, Any]], accounts: dict[int, Account]) -> list[dict[str, Any]]:
        """Each endpoint with its load, and with what each server process has under way there."""
        loads = self._loads().loads
        for model in models:
            for endpoint in model["endpoints"]:
                endpoint["load"] = loads.get(endpoint["id"])
                endpoint["in_flight"] = {
                    str(index): account.in_flight.get(endpoint["address"], 0) for index, account in accounts.items()
                }
        return models


async def _accounts(children: Sequence[ServerChild], decisions: int = 0) -> dict[int, Account]:
    """By the process's index; those that do not answer in time are left out."""
    accounts = await asyncio.gather(*(child.inspect(_ACCOUNT_SECONDS, decisions) for child in children))
    return {child.index: account for child, account in zip(children, accounts, strict=True) if account is not None}


def _queues(accounts: dict[int, Account]) -> dict[str, dict[str, Any]]:
    """By model: how many run, and how many of each tenant wait, over all server processes."""
    queues: dict[str, dict[str, Any]] = {}
    for account in accounts.values():
        for name, queue in account.queues.items():
            total = queues.setdefault(name, {"running": 0, "waiting": {}})
            total["running"] += queue.running
            for tenant, count in queue.waiting.items():
                total["waiting"][tenant] = total["waiting"].get(tenant, 0) + count
    return queues


class _Moment(msgspec.Struct):
    at: float


_decode_moment = msgspec.json.Decoder(_Moment).decode


def _decisions(accounts: dict[int, Account], limit: int) -> list[msgspec.Raw]:
    """The newest first."""
    found = [decision for account in accounts.values() for decision in reversed(account.decisions)]
    found.sort(key=lambda decision: _decode_moment(decision).at, reverse=True)
    return [msgspec.Raw(decision) for decision in found[:limit]]
