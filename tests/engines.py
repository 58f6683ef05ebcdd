"""Echo engines as tests start them: real processes, steered and looked into from outside."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers import ROOT
from tests.waiting import eventually_async

MODEL = "echo"
STOP_SECONDS = 10.0


@dataclass
class EchoEngine:
    """A running `python -m backends.echo`. `address` is as an `Endpoint` has it."""

    process: subprocess.Popen[str]
    address: str
    control: httpx.Client = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        assert self.address.startswith("unix:")
        return self.address.removeprefix("unix:")

    @property
    def url(self) -> str:
        """The base of its URLs; over a Unix socket any host will do."""
        return "http://echo" if self.address.startswith("unix:") else self.address

    def stats(self) -> dict[str, Any]:
        """Its counts and the last request to its model."""
        answer: dict[str, Any] = self.control.get("/echo/stats").raise_for_status().json()
        return answer

    def reset(self) -> None:
        """Counts to zero."""
        self.control.get("/echo/stats", params={"reset": "1"}).raise_for_status()

    def configure(self, **options: object) -> None:
        """Change options from now on: `configure(fault="cut", after=3, itl_ms=5)`."""
        self.control.get("/echo/config", params={key: str(value) for key, value in options.items()}).raise_for_status()

    def client(self) -> httpx.AsyncClient:
        """A client of its own, which the caller closes."""
        uds = self.socket if self.address.startswith("unix:") else None
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=uds, limits=limits, verify=False), base_url=self.url, timeout=30.0
        )

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A plain connection to it, dropped without a word at the end of the block."""
        if self.address.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(self.socket)
        else:
            url = httpx.URL(self.address)
            reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            try:
                await writer.wait_closed()
            except ConnectionResetError:
                pass

    async def holds(self, active: int, waiting: int = 0, *, seconds: float = 10.0) -> dict[str, Any]:
        """Wait until so many requests have a slot and so many wait for one; its counts then."""

        async def probe() -> dict[str, Any]:
            stats = self.stats()
            return stats if (stats["active"], stats["waiting"]) == (active, waiting) else {}

        return await eventually_async(probe, seconds=seconds, what=f"{active} active and {waiting} waiting")

    async def idle(self, *, seconds: float = 10.0) -> dict[str, Any]:
        """Wait until nothing runs or waits in it; its counts then."""
        return await self.holds(0, 0, seconds=seconds)

    def stop(self) -> int:
        """SIGTERM, then its exit status. One that does not exit is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        self.process.kill()
        return self.process.wait(STOP_SECONDS)


@contextmanager
def echo_engine(*flags: str, tcp: bool = False, model: str = MODEL, **options: object) -> Iterator[EchoEngine]:
    """An echo engine that listens, on a Unix socket or with `tcp` on a free port, until the block ends.

    Options are those of the command line: `echo_engine(ttft_ms=50, slots=2)`; `flags` go to it as they are.
    """
    # A short path: a Unix socket's may have 107 bytes.
    scratch = Path(tempfile.mkdtemp(prefix="echo-"))
    where = ["--port", "0"] if tcp else ["--uds", str(scratch / "echo.sock")]
    chosen = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    argv = [sys.executable, "-m", "backends.echo", *where, "--model", model, *chosen, *flags]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), f"the engine exited with {process.wait()}: {' '.join(argv)}"
        address = line.split()[-1]
        uds = address.removeprefix("unix:") if address.startswith("unix:") else None
        transport = httpx.HTTPTransport(uds=uds, verify=False, retries=1)
        with httpx.Client(transport=transport, base_url="http://echo" if uds else address) as control:
            engine = EchoEngine(process, address, control)
            yield engine
            engine.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)
