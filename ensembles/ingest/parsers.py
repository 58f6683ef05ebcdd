"""A pool of parser processes, each reading one document at a time: what one breaks on breaks nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, create_subprocess_exec
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import msgspec

from backends.engine import guard
from ensembles.ingest.faults import DocumentError, invalid
from ensembles.ingest.messages import LENGTH, Answer, Limits, Order, Parsed, Piece, Reader, Refused
from ensembles.records.rows import Chunking

PARSER_ARGV = (sys.executable, "-m", "ensembles.ingest.parser")

# Threads' arenas take address space that nobody uses; a parser has a processor to itself at the most.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "RAYON_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "0",
}
_IDLE_SECONDS = 30.0
_KILLS = 3
_READ_BYTES = 1 << 20


class ParserKilled(Exception):
    """Somebody killed the process again and again: the document need not be at fault."""


class _DiedError(Exception):
    """The process ended before its answer; `status` is as of `Process.returncode`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Parsers:
    """Up to `count` processes, started when needed, ended when idle. `close` ends them all."""

    def __init__(self, count: int, limits: Limits | None = None, argv: Sequence[str] = PARSER_ARGV) -> None:
        self._limits = limits or Limits()
        self._argv = argv
        self._places = asyncio.Semaphore(count)
        self._idle: list[tuple[Process, asyncio.TimerHandle]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)

    def pids(self) -> list[int]:
        """The processes that wait for work."""
        return [process.pid for process, _ in self._idle]

    async def parse(self, path: Path, filename: str, reader: Reader, chunking: Chunking) -> list[Piece]:
        """The chunks of a document. Cancelling it kills the process that reads it.

        Raises `DocumentError` where the document is at fault, what it does to its process included; `ParserKilled`
        where something else kills that again and again.
        """
        async with self._places:
            is_careful = False
            kills = 0
            while True:
                order = Order(str(path), filename, reader, chunking, self._limits.cpu_seconds, is_careful)
                try:
                    return await self._ask(order)
                except TimeoutError as error:
                    raise invalid(f"The document took longer than {self._limits.wall_seconds:g} s to read.") from error
                except _DiedError as death:
                    if death.status == -signal.SIGKILL:
                        kills += 1
                        if kills >= _KILLS:
                            raise ParserKilled(
                                f"The process that read the document was killed {kills} times."
                            ) from death
                    elif PurePath(filename).suffix.lower() == ".pdf" and not is_careful:
                        is_careful = True
                    else:
                        raise self._fault(death.status) from death

    async def close(self) -> None:
        """End every process."""
        while self._idle:
            self._end(*self._idle.pop())
        if self._ending:
            await asyncio.wait(self._ending)

    async def _ask(self, order: Order) -> list[Piece]:
        process = await self._process()
        is_good = False
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                answer = await self._exchange(process, order)
            is_good = not answer.is_worn
        finally:
            if is_good:
                self._keep(process)
            else:
                await _kill(process)
        if isinstance(answer, Refused):
            raise DocumentError(answer.code, answer.message)
        return answer.pieces

    async def _exchange(self, process: Process, order: Order) -> Parsed | Refused:
        assert process.stdin is not None
        assert process.stdout is not None
        body = msgspec.msgpack.encode(order)
        if process.returncode is not None:  # killed while it was started: uvloop refuses to write then
            raise _DiedError(process.returncode)
        try:
            process.stdin.write(LENGTH.pack(len(body)) + body)
            await process.stdin.drain()
            (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            if size > self._limits.answer_bytes:
                raise invalid(f"The document's text is over the limit of {self._limits.answer_bytes >> 20} MB.")
            return self._decoder.decode(await process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _DiedError(await process.wait()) from error

    async def _process(self) -> Process:
        while self._idle:
            process, timer = self._idle.pop()
            timer.cancel()
            if process.returncode is None:
                return process
        return await create_subprocess_exec(
            *(sys.executable, "-I", "-S", guard.__file__, "--exec", "--"),
            *(*self._argv, str(self._limits.memory_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=_READ_BYTES,
            env={**os.environ, **_ENVIRONMENT},
        )

    def _keep(self, process: Process) -> None:
        timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._retire, process)
        self._idle.append((process, timer))

    def _retire(self, process: Process) -> None:
        for entry in self._idle:
            if entry[0] is process:
                self._idle.remove(entry)
                self._end(*entry)
                return

    def _end(self, process: Process, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        task = asyncio.create_task(_kill(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _fault(self, status: int) -> DocumentError:
        """Cases: the kernel's limit of processor time, memory that was refused, a crash."""
        if status == -signal.SIGXCPU:
            return invalid(f"The document took more than {self._limits.cpu_seconds} s of processor time to read.")
        if status == -signal.SIGABRT:
            return invalid(f"The document could not be read within {self._limits.memory_bytes >> 20} MB of memory.")
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return invalid(f"The document crashes what reads it ({how}).")


async def _kill(process: Process) -> None:
    """End it with all that it has started: it leads a group of its own."""
    for kill in (os.killpg, os.kill):  # the group is made by the guard, a moment after the start
        with suppress(ProcessLookupError, PermissionError):
            kill(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
    if process.stdout is not None:
        await process.stdout.read()  # its transport is closed at the end of the file alone
