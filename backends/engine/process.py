"""One engine process, kept running: started under a guard, watched, restarted, drained, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from backends.engine import guard
from backends.engine.command import Command
from backends.engine.probe import Probe
from backends.engine.watch import (
    FailedForGoodError,
    Patience,
    Status,
    ask,
    ask_worker,
    configuration,
    context_length,
)
from backends.model import State

_logger = logging.getLogger(__name__)

_KEPT_LINES = 40
_LONGEST_DELAY_OF_A_KILL_SECONDS = 1.0
_LINE_BYTES = 4096
_FIRST_POLL_SECONDS = 0.05
_LAST_POLL_SECONDS = 0.2
# For the guard's own two processes to end, and for the last lines to arrive.
_GUARD_SLACK_SECONDS = 5.0
_OUTPUT_SECONDS = 1.0


class EngineProcess:
    """An engine of ours at one endpoint. `status` is what is known of it; `run` is its whole life.

    `name` is the model's, for the log; `changed` is set whenever `status` differs. `judge` takes a worker's completed
    configuration; it raises `FailedForGoodError` where the model cannot be served under it.
    """

    def __init__(
        self,
        id: str,
        command: Command,
        name: str,
        changed: asyncio.Event,
        patience: Patience,
        judge: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.id = id
        self.address = command.address
        self.command = command
        self.metrics = command.metrics
        self.status = Status(name, changed, command.context_length)
        self.pid: int | None = None
        """The guard's, while there is one: the engine is its grandchild."""
        self._name = name
        self._patience = patience
        self._judge = judge
        self._was_ready = False

    def drain(self) -> None:
        """New requests stop; the process goes on until `run` is cancelled."""
        self.status.enter(State.DRAINING)

    async def run(self) -> None:
        """Keep the engine running until it is given up (FAILED) or this is cancelled (STOPPED).

        Cancelling sends SIGTERM, then SIGKILL after the grace, and returns when no process of the engine is left;
        cancelling once more kills at once and returns without looking.
        """
        crashes = kills = 0
        patience, status = self._patience, self.status
        try:
            while True:
                end = await self._live()
                if end.is_final:
                    status.enter(State.FAILED, end.reason)
                    return
                if end.ready_seconds >= patience.stable_seconds:
                    crashes = 0
                if end.was_killed and self._was_ready:
                    # Somebody's doing, or the kernel's, not its own: it has served and will serve again.
                    kills = 0 if end.ready_seconds else kills + 1
                    status.enter(State.RESTARTING, end.reason + end.output)
                    await asyncio.sleep(min(_delay_seconds(kills + 1, patience), _LONGEST_DELAY_OF_A_KILL_SECONDS))
                    status.restarted()
                    continue
                crashes += 1
                limit = patience.max_restarts
                if not self._was_ready:
                    limit = 0 if end.hopeless else min(limit, patience.max_first_restarts)
                if crashes > limit:
                    tries = f" (given up after {limit} restarts)" if limit else ""
                    status.enter(State.FAILED, end.reason + tries + end.output)
                    return
                status.enter(State.RESTARTING, end.reason + end.output)
                await asyncio.sleep(_delay_seconds(crashes, patience))
                status.restarted()
        except OSError as error:
            status.enter(State.FAILED, f"cannot be started: {error}")
        except Exception as error:
            _logger.exception("%s: the watcher failed", self._name)
            status.enter(State.FAILED, f"the watcher failed: {error!r}")
        finally:
            with suppress(OSError):
                _remove_socket(self.address)
            if status.state is not State.FAILED:
                status.enter(State.STOPPED)

    async def _live(self) -> _End:
        """One life of the process, from its start to the moment when nothing of it is left. Raises `OSError`."""
        command, patience = self.command, self._patience
        _remove_socket(command.address)  # what a killed engine left would make the next one's bind fail
        child = await _Child.start(self._name, command, patience.grace_seconds)
        self.pid = child.pid
        loop = asyncio.get_running_loop()
        health = _Health(Probe(command.address), command, patience, self.status, self._judge)
        watcher = asyncio.create_task(health.watch())
        ending = signal.SIGTERM
        try:
            await asyncio.wait((watcher, child.exited), return_when=asyncio.FIRST_COMPLETED)
            ready_seconds = 0.0 if health.ready_at is None else loop.time() - health.ready_at
            self._was_ready = self._was_ready or health.ready_at is not None
            ending = signal.SIGQUIT  # it hangs, or it has gone
            if not child.exited.done():
                try:
                    return _End(watcher.result(), child.output(), ready_seconds, hopeless=True)
                except FailedForGoodError as error:
                    return _End(str(error), "", ready_seconds, hopeless=True, is_final=True)
            await child.finish(ending)
            hopeless = child.status == guard.CANNOT_START_STATUS
            reason = _describe(child.status) + ("" if self._was_ready else " before it was ready")
            was_killed = child.status in {-signal.SIGKILL, 128 + signal.SIGKILL}
            return _End(reason, child.output(), ready_seconds, hopeless=hopeless, was_killed=was_killed)
        finally:
            watcher.cancel()
            try:
                await asyncio.wait((watcher,))
                await child.finish(ending)
            finally:
                child.close()
                health.probe.close()
                self.pid = None


@dataclass(frozen=True, slots=True)
class _End:
    """How one life ended. `hopeless`: another try, without having been ready ever, would end the same way.

    `was_killed`: by SIGKILL, which was not ours. `is_final`: nor would it if it had been ready before.
    """

    reason: str
    output: str
    ready_seconds: float
    hopeless: bool
    was_killed: bool = False
    is_final: bool = False


class _Health:
    """Follows one life by the engine's health route."""

    def __init__(
        self, probe: Probe, command: Command, patience: Patience, status: Status, judge: Callable[[str], None]
    ) -> None:
        self.probe = probe
        self.ready_at: float | None = None
        self._command = command
        self._patience = patience
        self._status = status
        self._judge = judge

    async def watch(self) -> str:
        """Return only when the engine should be killed: the reason. Raises `FailedForGoodError`."""
        patience, status = self._patience, self._status
        fault: str | None = "it was not asked"
        try:
            async with asyncio.timeout(self._command.start_timeout_seconds):
                pause_seconds = _FIRST_POLL_SECONDS
                while (fault := await self._ask() or await self._read_configuration()) is not None:
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(pause_seconds * 1.2, _LAST_POLL_SECONDS)
        except TimeoutError:
            return f"not ready within {self._command.start_timeout_seconds:g} s: {fault}"
        self.ready_at = asyncio.get_running_loop().time()
        status.enter(State.READY)
        if self._command.context_length is None and self._command.config is None:
            status.describe(await context_length(self.probe, patience.timeout_seconds))
        failures = 0
        while True:
            await asyncio.sleep(patience.interval_seconds)
            fault = await self._ask()
            if fault is None:
                failures = 0
                status.enter(State.READY)
                continue
            failures += 1
            if failures >= patience.hung_after:
                return f"hangs: {failures} looks at its health failed, the last one so: {fault}"
            if failures >= patience.unhealthy_after:
                status.enter(State.UNHEALTHY, fault)

    async def _read_configuration(self) -> str | None:
        """What is wrong with it; a worker is READY only with a configuration that all others can have."""
        path = self._command.config
        if path is None:
            return None
        document = await configuration(self.probe, path, self._patience.timeout_seconds)
        if document is None:
            return f"{path} gave no configuration"
        self._judge(document)
        self._status.document = document
        return None

    async def _ask(self) -> str | None:
        if self._command.config is not None:
            return await ask_worker(self.probe, self._command.health, self._patience.timeout_seconds)
        return await ask(self.probe, self._command.health, self._patience.timeout_seconds, lambda code: code == 200)


class _Child(asyncio.SubprocessProtocol):
    """A guard with its engine; keeps the last lines of their output."""

    def __init__(self, name: str, grace_seconds: float, lifeline: int) -> None:
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = asyncio.Event()
        self._name = name
        self._grace_seconds = grace_seconds
        self._lifeline = lifeline
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""
        self._transport: asyncio.SubprocessTransport

    @classmethod
    async def start(cls, name: str, command: Command, grace_seconds: float) -> _Child:
        lifeline, held = os.pipe()
        argv = (sys.executable, "-I", "-S", guard.__file__, "--lifeline-fd", str(lifeline))
        try:
            _, child = await asyncio.get_running_loop().subprocess_exec(
                lambda: cls(name, grace_seconds, held),
                *argv,
                *("--grace", str(grace_seconds), "--", *command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **command.env},
                cwd=command.cwd,
                pass_fds=(lifeline,),
            )
        except BaseException:
            os.close(held)
            raise
        finally:
            os.close(lifeline)
        return child

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    @property
    def status(self) -> int:
        return self._transport.get_returncode() or 0

    def output(self) -> str:
        return "".join(f"\n  {line}" for line in self._lines)

    async def finish(self, number: int) -> None:
        """End it by this signal, which the guard knows, if it has not ended; then wait for its last lines."""
        try:
            if not self.exited.done():
                self._transport.send_signal(number)
            async with asyncio.timeout(self._grace_seconds + _GUARD_SLACK_SECONDS):
                await asyncio.wait((self.exited,))
            # The end of file says that no process of the engine is left, the guard killed or not.
            async with asyncio.timeout(_OUTPUT_SECONDS):
                await self._closed.wait()
        except TimeoutError:
            if not self.exited.done():
                _logger.warning("%s: process %d does not end, it is killed", self._name, self.pid)

    def close(self) -> None:
        """Kill the guard if it is there still, which makes its other half kill the rest."""
        self._transport.close()
        os.close(self._lifeline)

    # asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002
        # A progress bar ends its lines by a carriage return.
        *lines, self._partial = (self._partial + data.replace(b"\r", b"\n")).split(b"\n")
        if len(self._partial) > _LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._keep(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        self._keep(self._partial)
        self._partial = b""
        self._closed.set()

    def process_exited(self) -> None:
        self.exited.set_result(None)

    def _keep(self, line: bytes) -> None:
        text = line[:_LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            self._lines.append(text)
            _logger.info("%s | %s", self._name, text)


def _describe(status: int) -> str:
    """The guard's exit status in words: its own death by a signal is negative, the engine's is over 128."""
    number = -status if status < 0 else status - 128
    if status < 0 or status > 128:
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"exited with status {status}"
        hint = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"exited with status {status}"


def _remove_socket(address: str) -> None:
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _delay_seconds(crashes: int, patience: Patience) -> float:
    """Exponential, with jitter so that engines which fell together do not start together."""
    delay_seconds = min(patience.first_delay_seconds * 2.0 ** (crashes - 1), patience.longest_delay_seconds)
    return delay_seconds * random.uniform(1.0, 1.5)  # noqa: S311  # no secret
