"""Server processes and the ingester, kept running by the supervisor: started, told, asked, restarted, drained."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from backends.engine import guard
from gateway.channel import Channel, ChannelError
from gateway.led import SETTINGS_VARIABLE
from gateway.snapshot import Account, Ask, Counters, Drain, Inspect, Loads, Reload, Scrape, Serving, Snapshot, Told

_logger = logging.getLogger(__name__)

SERVER_ARGV = (sys.executable, "-m", "gateway.server")

# Between the end of a process's channel and its exit.
_EXIT_SECONDS = 1.0


class Ledger(Protocol):
    """Where counters go; `key` is the server process's index."""

    def keep(self, key: str, payload: bytes) -> None: ...
    def bury(self, key: str) -> None:
        """The process has ended: what it counted stays, its successor starts anew."""
        ...


Answer = Callable[[Ask], Awaitable[Told]]
"""How what a server process asks is answered; raises nothing."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a server process may be silent, and how soon the next one is started."""

    start_seconds: float = 60.0
    """From its start until it serves."""
    ask_interval_seconds: float = 5.0
    answer_seconds: float = 15.0
    """A server process is alive only if it answers within this."""
    first_delay_seconds: float = 0.1
    longest_delay_seconds: float = 5.0
    futile_lives: int = 5
    """So many lives in a row that never served, and it is given up: the gateway itself is broken."""


class ServerChild:
    """One server process on its own listening socket (and one for gRPC), from life to life; `run` is the whole of it.

    The sockets stay open here as well, so that connections wait for the next life in their queues. A process that
    serves nobody has no `listener`, and another `name` in the log.
    `serving` is set while it accepts connections. What it counts goes to `ledger`; what it asks, `answer` answers.
    """

    def __init__(
        self,
        index: int,
        listener: socket.socket | None,
        snapshot: Callable[[], Snapshot],
        ledger: Ledger,
        *,
        settings_json: str,
        argv: Sequence[str] = SERVER_ARGV,
        timing: Timing | None = None,
        answer: Answer | None = None,
        grpc_listener: socket.socket | None = None,
        name: str = "",
    ) -> None:
        self.index = index
        self.name = name or f"server process {index}"
        self.serving = asyncio.Event()
        self.pid: int | None = None
        self._listener = listener
        self._grpc_listener = grpc_listener
        self._snapshot = snapshot
        self._ledger = ledger
        self._answer = answer
        self._argv = argv
        self._environment = {SETTINGS_VARIABLE: settings_json}
        self._timing = timing or Timing()
        self._drain_seconds = 0.0
        self._drain_asked = asyncio.Event()
        self._life: _Life | None = None

    def notify(self) -> None:
        """There is a new snapshot. Several within one turn of the loop are sent as one."""
        if self._life is not None:
            self._life.changed.set()

    def tell(self, message: Loads | Reload) -> None:
        """Pass a message on; of several of one kind within one turn of the loop the last one is sent."""
        if self._life is not None:
            self._life.posts[type(message)] = message
            self._life.changed.set()

    async def inspect(self, timeout_seconds: float, decisions: int = 0) -> Account | None:
        """Ask for an account of what is under way; None where it gave none in time."""
        life = self._life
        answer = None if life is None else await life.ask(Inspect(life.number(), decisions), timeout_seconds)
        return answer if isinstance(answer, Account) else None

    def drain(self, seconds: float) -> None:
        """Have it take no new work, finish what is under way within `seconds` and exit; `run` then returns."""
        self._drain_seconds = seconds
        self._drain_asked.set()

    async def collect(self, timeout_seconds: float) -> bool:
        """Ask for its counters, for the ledger; whether it answered in time."""
        life = self._life
        return life is not None and await life.ask(Scrape(life.number()), timeout_seconds) is not None

    async def run(self) -> None:
        """Keep it running until it has drained, or until it was started in vain too often.

        Cancelling kills it.
        """
        timing = self._timing
        futile = 0
        while not self._drain_asked.is_set():
            reason = await self._live()
            if self._drain_asked.is_set():
                return
            futile = 0 if self.serving.is_set() else futile + 1
            self.serving.clear()
            if futile >= timing.futile_lives:
                _logger.error("%s: %s; given up after %d starts", self.name, reason, futile)
                return
            _logger.warning("%s: %s; it is started again", self.name, reason)
            delay_seconds = min(timing.first_delay_seconds * 2.0**futile, timing.longest_delay_seconds)
            with suppress(TimeoutError):  # a drain ends the wait
                async with asyncio.timeout(delay_seconds * random.uniform(1.0, 1.5)):  # noqa: S311  # no secret
                    await self._drain_asked.wait()

    async def _live(self) -> str:
        """One life of the process; how it ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await self._start(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        channel = await Channel.open(ours)
        self._life = life = _Life(process, channel, self._ledger, str(self.index), self.serving, self._answer)
        self.pid = process.pid
        try:
            return await life.run(self._snapshot, self._wait_for_drain, self._timing)
        finally:
            self._life = self.pid = None
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await channel.close()
            self._ledger.bury(str(self.index))

    async def _start(self, control: int) -> Process:
        sockets = {"--listen-fd": self._listener, "--grpc-fd": self._grpc_listener}
        numbers = {option: sock.fileno() for option, sock in sockets.items() if sock is not None}
        return await create_subprocess_exec(
            # Killed with its parent: one that hangs would not notice the end of its channel.
            *(sys.executable, "-I", "-S", guard.__file__, "--exec", "--", *self._argv),
            *("--control-fd", str(control), "--index", str(self.index)),
            *(part for option, number in numbers.items() for part in (option, str(number))),
            stdin=DEVNULL,
            env={**os.environ, **self._environment},
            pass_fds=(control, *numbers.values()),
        )

    async def _wait_for_drain(self) -> float:
        await self._drain_asked.wait()
        return self._drain_seconds


class _Life:
    """What goes over the channel while one process lives."""

    def __init__(
        self,
        process: Process,
        channel: Channel,
        ledger: Ledger,
        key: str,
        serving: asyncio.Event,
        answer: Answer | None,
    ) -> None:
        self.changed = asyncio.Event()
        self.changed.set()
        self.posts: dict[type, Loads | Reload] = {}
        self.number = itertools.count().__next__
        """Of the next question to the process."""
        self._process = process
        self._channel = channel
        self._ledger = ledger
        self._key = key
        self._serving = serving
        self._answer = answer
        self._asked: dict[int, asyncio.Future[Counters | Account]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def run(
        self, snapshot: Callable[[], Snapshot], wait_for_drain: Callable[[], Awaitable[float]], timing: Timing
    ) -> str:
        """Return how it ended, or why it should be killed."""
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._exit(),
                self._listen(),
                self._tell(snapshot),
                self._pass_on_drain(wait_for_drain),
                self._check(timing),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reasons = [task.result() for task in tasks if task in done]
        finally:
            ending = {*tasks, *self._answering}
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
        return reasons[0]

    async def ask(self, question: Scrape | Inspect, timeout_seconds: float) -> Counters | Account | None:
        """The process's answer; None where it did not come in time."""
        answered: asyncio.Future[Counters | Account] = asyncio.get_running_loop().create_future()
        self._asked[question.id] = answered
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._channel.send(question)
                return await answered
        except (TimeoutError, ConnectionError):
            return None
        finally:
            del self._asked[question.id]

    async def _exit(self) -> str:
        status = await self._process.wait()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"

    async def _listen(self) -> str:
        while True:
            try:
                message = await self._channel.receive()
            except EOFError:
                return await self._exit_or("closed its control channel")
            except ChannelError as error:
                return str(error)
            if isinstance(message, Serving):
                self._serving.set()
            elif isinstance(message, Counters | Account):
                if isinstance(message, Counters):
                    self._ledger.keep(self._key, message.payload)
                if (answered := self._asked.get(message.id)) is not None and not answered.done():
                    answered.set_result(message)
            elif isinstance(message, Ask) and self._answer is not None:
                task = asyncio.create_task(self._reply(message, self._answer))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _reply(self, question: Ask, answer: Answer) -> None:
        with suppress(ConnectionError):  # whoever asked has gone
            await self._channel.send(await answer(question))

    async def _tell(self, snapshot: Callable[[], Snapshot]) -> str:
        told: Snapshot | None = None
        try:
            while True:
                await self.changed.wait()
                self.changed.clear()
                latest = snapshot()
                if latest is not told:
                    await self._channel.send(latest)
                    told = latest
                posts, self.posts = self.posts, {}
                for message in posts.values():
                    await self._channel.send(message)
        except ConnectionError:
            return await self._exit_or("closed its control channel")

    async def _pass_on_drain(self, wait_for_drain: Callable[[], Awaitable[float]]) -> str:
        seconds = await wait_for_drain()
        try:
            await self._channel.send(Drain(seconds))
        except ConnectionError:
            pass
        return await self._exit()

    async def _check(self, timing: Timing) -> str:
        try:
            async with asyncio.timeout(timing.start_seconds):
                await self._serving.wait()
        except TimeoutError:
            return f"does not serve after {timing.start_seconds:g} s"
        is_alive = True
        while is_alive:
            await asyncio.sleep(timing.ask_interval_seconds)
            is_alive = await self.ask(Scrape(self.number()), timing.answer_seconds) is not None
        return await self._exit_or(f"did not answer within {timing.answer_seconds:g} s")

    async def _exit_or(self, reason: str) -> str:
        """How it exited; `reason` if it did not, though its channel broke."""
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                return await self._exit()
        except TimeoutError:
            return reason
