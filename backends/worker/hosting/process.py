"""One instance's process, as its host has it: started, loaded, ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from backends.config import RateLimiter
from backends.worker.hosting.calls import Call
from backends.worker.hosting.executor import Request
from backends.worker.hosting.warmup import Warming
from backends.worker.link import Link
from backends.worker.messages import Completed, Executed, Failed, Load, Loaded, Message
from backends.worker.scheduling.scheduler import Batch

_logger = logging.getLogger(__name__)

# Between the end of the link, on which an instance finalizes its model, and SIGKILL.
_GRACE_SECONDS = 8.0
_EXIT_SECONDS = 1.0
_STATUSES = ("Internal: ", "Invalid argument: ", "Not found: ", "Unavailable: ", "Unsupported: ", "Unknown: ")


class LoadFailed(Exception):
    """A model cannot be loaded; the message is worded as Triton words it."""


@dataclass(frozen=True, slots=True)
class Place:
    """One instance of `instance_group`: Triton's name of it, the device it is for (-1: the CPU), what it shares."""

    name: str
    kind: str
    device: int
    limiter: RateLimiter | None = None


class Owner(Protocol):
    """Who the messages of an instance are for, once it is there."""

    def received(self, instance: Instance, message: Message, payload: memoryview) -> None: ...
    def left(self, instance: Instance) -> None:
        """Its link is gone."""
        ...


class Instance:
    """One instance: at any time at most one process. `running` to `overtime` are the executor's.

    `is_working` once it has loaded and as long as its link lives; `warming` is what takes its answers during warm-up.
    """

    def __init__(self, number: int, place: Place, owner: Owner) -> None:
        self.number = number
        self.name = place.name
        self.place = place
        self.link: Link
        self.pid = 0
        self.running: dict[int, Request] = {}
        self.batch: Batch | None = None
        self.began_ns = 0
        self.overtime: asyncio.TimerHandle | None = None
        self.calls: dict[int, Call] = {}
        self.is_working = False
        self.warming: Warming | None = None
        self._owner = owner
        self._process: asyncio.subprocess.Process | None = None
        self._completed: asyncio.Future[str]
        self._loaded: asyncio.Future[None]
        self._gone: asyncio.Future[None]
        self._kill_reason = ""

    async def start(self, argv: Sequence[str], env: Mapping[str, str], config: bytes, *, completes: bool) -> None:
        """Have a process load the model. Raises `LoadFailed`; `end` must be called in either case."""
        loop = asyncio.get_running_loop()
        self._completed, self._loaded, self._gone = loop.create_future(), loop.create_future(), loop.create_future()
        self._kill_reason = ""
        self._process = None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *argv,
                    *("--fd", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    env=env,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                ours.close()
                raise LoadFailed(f"Internal: unable to start the instance: {error}") from error
        self.pid = self._process.pid
        await loop.create_unix_connection(self._linked, sock=ours)
        place = self.place
        self.link.send(Load(config, place.name, place.kind, place.device, completes))

    async def completed(self) -> str:
        """Wait for Triton's JSON of the completed configuration. Raises `LoadFailed`."""
        await asyncio.wait((self._completed, self._loaded, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if not self._completed.done():
            await self.loaded()
        return self._completed.result()

    async def loaded(self) -> None:
        """Wait until it has loaded the model. Raises `LoadFailed`."""
        await asyncio.wait((self._loaded, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            raise LoadFailed(f"Internal: the instance {await self.reason()} while it loaded the model")
        self._loaded.result()

    async def until(self, future: asyncio.Future[Executed]) -> Executed:
        """Wait for what it is about to say. Raises `LoadFailed` when it ends before."""
        await asyncio.wait((future, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise LoadFailed(f"Internal: the instance {await self.reason()} during its warm-up")
        return future.result()

    async def reason(self) -> str:
        """Wait until it is gone: what happened, in words that follow 'the instance'."""
        await asyncio.wait((self._gone,))
        assert self._process is not None
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            return "closed its link"
        if self._kill_reason:
            return self._kill_reason
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", as the kernel does when memory runs out" if -status == signal.SIGKILL else ""
            return f"was killed by {name}{hint}"
        return f"exited with status {status}"

    def kill(self, reason: str) -> None:
        """End it at once, for this reason."""
        self._kill_reason = reason
        self._kill()

    async def end(self) -> None:
        """Let the process finalize its model and end, kill it if it does not."""
        if self._process is None:
            return
        self.link.close()
        if not self._loaded.done():
            self._kill()  # there is nothing to finalize, and it may load for minutes
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            _logger.warning("%s: the process %d does not end, it is killed", self.name, self.pid)
        finally:
            if self._process.returncode is None:
                self._kill()
                await self._process.wait()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _linked(self) -> Link:
        self.link = Link(self)
        return self.link

    # the link's owner

    def received(self, message: Message, payload: memoryview) -> None:
        if type(message) is Completed:
            self._completed.set_result(message.document)
        elif type(message) is Loaded:
            self._loaded.set_result(None)
        elif type(message) is Failed:
            self._loaded.set_exception(LoadFailed(_worded(message.message)))
        else:
            self._owner.received(self, message, payload)

    def lost(self, reason: str) -> None:  # noqa: ARG002  # its exit status says more
        if not self._gone.done():
            self._gone.set_result(None)
        self._owner.left(self)

    def paused(self, is_paused: bool) -> None:
        pass  # it has one batch at most


def _worded(message: str) -> str:
    """A model's failure with Triton's word for its status, `Internal` where the model's loader had none."""
    return message if message.startswith(_STATUSES) else f"Internal: {message}"
