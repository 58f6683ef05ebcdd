"""Redis as tests start it: a real server on a free port, without a file."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.servers import free_ports, unavailable
from tests.waiting import eventually


@dataclass(slots=True)
class RedisServer:
    """A running `redis-server`, to be stopped and started again on the same port, with nothing left of before."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            unavailable("redis-server is not installed: run deploy/test-services.sh")
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self.process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, cwd="/tmp")
        eventually(self._listens, what="redis-server")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer(free_ports(1)[0])
    server.start()
    try:
        yield server
    finally:
        server.stop()
