"""All instances of a model: which there are, the order in which they load, their restarts, and what they say."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.config import InstanceGroup, ModelConfig, read
from backends.errors import InvalidRequest
from backends.worker.hosting.calls import Calls
from backends.worker.hosting.executor import Executor
from backends.worker.hosting.metrics import OwnMetrics
from backends.worker.hosting.process import Instance, LoadFailed, Place
from backends.worker.hosting.warmup import WarmupFailed, warm_up
from backends.worker.messages import Cancel, Control, Executed, Infer, Message, Metrics, Pace, Respond

_logger = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 30.0
# Of one that can be loaded: a request that ends it again and again is not to take the model from all others.
_LONGEST_DELAY_AFTER_WORK_SECONDS = 1.0
_STABLE_SECONDS = 60.0
_MOST_FAILED_LOADS = 5
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Program:
    """How an instance's process is started, and whether it completes the configuration from the model."""

    argv: Sequence[str]
    env: Mapping[str, str]
    completes: bool


class Instances:
    """The instances of one model. `run` is their whole life; `changed` is called when what follows differs.

    `alive` is how many wait for work or do it, `failure` why the model will not be served any more, if so.
    `executor` is there once the configuration is complete.
    """

    def __init__(
        self, config: ModelConfig, program: Program, open: Callable[[ModelConfig, int], Executor], calls: Calls
    ) -> None:
        self.config = config
        self.alive = 0
        self.has_loaded = False
        self.failure = ""
        self.reason = "the model is loading"
        self.executor: Executor | None = None
        self.metrics = OwnMetrics()
        self.changed: Callable[[], None] = lambda: None
        self._program = program
        self._open = open
        self._calls = calls
        self._count = self._missing = 0

    async def run(self) -> None:
        """Keep all instances running until this is cancelled, which ends them; a model that fails ends them too."""
        try:
            async with asyncio.TaskGroup() as group:
                first, *others = [Instance(number, place, self) for number, place in enumerate(places(self.config))]
                self._count = self._missing = 1 + len(others)
                ready = asyncio.get_running_loop().create_future()
                group.create_task(self._keep(first, ready))
                await ready
                for instance in others:
                    group.create_task(self._keep(instance))
        except* LoadFailed as failures:
            self._fail(str(failures.exceptions[0]))
        except* Exception as failures:
            _logger.exception("%s: the host failed", self.config.name)
            self._fail(f"Internal: the host failed: {failures.exceptions[0]!r}")

    def _fail(self, reason: str) -> None:
        self.failure = self.reason = reason
        _logger.error("%s: %s", self.config.name, reason)
        self.changed()

    async def _keep(self, instance: Instance, completed: asyncio.Future[None] | None = None) -> None:
        """Keep one instance running. Raises `LoadFailed` when the model fails with it."""
        ends = failed_loads = 0
        has_loaded = False
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._load(instance, completed)
                if not has_loaded:
                    self._missing -= 1
                has_loaded, completed, failed_loads = True, None, 0
                began = loop.time()
                self._arrive(instance)
                reason = await instance.reason()
                ends = 0 if loop.time() - began >= _STABLE_SECONDS else ends + 1
                delay_seconds = min(_delay_seconds(ends - 1), _LONGEST_DELAY_AFTER_WORK_SECONDS) if ends > 1 else 0.0
            except LoadFailed as error:
                failed_loads += 1
                reason = f"could not be loaded again: {error}"
                delay_seconds = _delay_seconds(failed_loads)
                if not has_loaded or (failed_loads > _MOST_FAILED_LOADS and not self.alive):
                    raise
            finally:
                await instance.end()
            _logger.warning("%s: the instance %s", instance.name, reason)
            self._lose(instance, reason)
            await asyncio.sleep(delay_seconds)

    async def _load(self, instance: Instance, completed: asyncio.Future[None] | None) -> None:
        program = self._program
        completes = completed is not None and program.completes
        await instance.start(program.argv, program.env, msgspec.json.encode(self.config), completes=completes)
        if completes:
            config = self.config
            document = await instance.completed()
            self.config = read(document, version=config.version, path=config.path, arguments=config.arguments)
        if completed is not None:
            try:
                self.executor = self._open(self.config, self._count)
            except InvalidRequest as error:
                raise LoadFailed(f"Invalid argument: {error.message}") from error
            completed.set_result(None)
        await instance.loaded()
        assert self.executor is not None
        try:
            await warm_up(instance, self.config, self.executor.counters, self.executor.tokenization)
        except WarmupFailed as error:
            raise LoadFailed(str(error)) from error

    def _arrive(self, instance: Instance) -> None:
        assert self.executor is not None
        if instance.link.is_lost:
            return  # it ended as soon as it had loaded, and gets no work
        instance.is_working = True
        self.alive += 1
        if not self._missing:
            self.has_loaded = True
            self.reason = ""
        self.changed()
        self.executor.arrived(instance)

    def _lose(self, instance: Instance, reason: str) -> None:
        if self.executor is not None:
            self.executor.lost(instance, reason)
        self._calls.ended(instance)
        self.metrics.ended(instance.number)

    # what instances say

    def received(self, instance: Instance, message: Message, payload: memoryview) -> None:
        executor = self.executor
        if type(message) is Metrics:
            self.metrics.update(instance.number, message.metrics)
        elif type(message) is Infer or type(message) is Control:
            self._calls.ask(instance, message, payload)
        elif type(message) is Cancel or type(message) is Pace:
            self._calls.pass_on(instance, message)
        elif executor is None:  # what comes before it has loaded is of these kinds alone
            instance.kill("spoke out of turn")
        elif type(message) is Respond:
            if instance.warming is None:
                executor.respond(instance, message, payload)
            else:
                instance.warming.respond(message)
        elif type(message) is Executed:
            if instance.warming is None:
                executor.executed(instance, message)
            else:
                instance.warming.executed(message)

    def left(self, instance: Instance) -> None:
        """An instance's link is gone: it gets no more work, and readiness says so at once."""
        if instance.is_working:
            instance.is_working = False
            self.alive -= 1
            if not self.alive:
                self.reason = "no instance is alive"
            if self.executor is not None:
                self.executor.left(instance)
            self.changed()


def places(config: ModelConfig) -> Iterator[Place]:
    """The instances of a model, as Triton counts and names them. Raises `LoadFailed` without the GPUs for them."""
    for number, group in enumerate(config.instance_group or (InstanceGroup(),)):
        if group.passive:
            continue
        prefix = group.name or f"{config.name}_{number}"
        devices = _devices(config, prefix, group)
        kind = group.kind if group.kind != "KIND_AUTO" else ("KIND_CPU" if devices == [-1] else "KIND_GPU")
        for device in devices:
            for copy in range(group.count):
                yield Place(f"{prefix}_{copy}", kind.removeprefix("KIND_"), device, group.rate_limiter)


def _devices(config: ModelConfig, name: str, group: InstanceGroup) -> list[int]:
    """The GPUs of a group, each for `count` instances; [-1] for the CPU."""
    if group.kind in {"KIND_CPU", "KIND_MODEL"}:
        return [-1]
    found = range(sum(1 for _ in _GPUS.iterdir()) if _GPUS.is_dir() else 0)
    if group.kind == "KIND_GPU" and not found:
        raise LoadFailed(
            f"Invalid argument: instance group {name} of model {config.name} has kind KIND_GPU"
            " but no GPUs are available"
        )
    return list(group.gpus or found) if found else [-1]


def _delay_seconds(failures: int) -> float:
    """Exponential, with jitter so that instances which fell together do not start together."""
    seconds = min(_FIRST_DELAY_SECONDS * 2.0 ** (failures - 1), _LONGEST_DELAY_SECONDS)
    return seconds * random.uniform(1.0, 1.5)  # noqa: S311  # no secret
