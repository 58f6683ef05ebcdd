"""`tritium serve` as tests start it: a real process on free ports, stopped by SIGTERM."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
TRITIUM = str(Path(sys.executable).with_name("tritium"))
START_SECONDS = 90.0
STOP_SECONDS = 45.0

# No port twice in a process, and from another place in each of those that run at once.
_ports = (10_000 + number % 10_000 for number in itertools.count(os.getpid() * 331))


@dataclass(slots=True)
class Tritium:
    """A running `tritium serve`. `log` holds its stdout and stderr."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    runtime_dir: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def is_ready(self) -> bool:
        """Whether it says so; raises when it has exited instead."""
        assert self.process.poll() is None, f"tritium exited with {self.process.returncode}:\n{self.output()}"
        return status(f"{self.url}/health/ready") == 200

    def stop(self) -> int:
        """SIGTERM, then its exit status. One that does not exit is killed, and the test fails."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"SIGTERM did not end tritium in {STOP_SECONDS} s:\n{self.output()}") from None


@contextmanager
def serving(
    repository: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    argv: Sequence[str] = (TRITIUM, "serve"),
    is_awaited: bool = True,
) -> Iterator[Tritium]:
    """Serve `repository` until the block ends; ready before it starts unless `is_awaited` is false.

    A server that the test has not stopped itself must exit with 0.
    """
    # A short path: a Unix socket's may have 107 bytes.
    scratch = Path(tempfile.mkdtemp(prefix="tritium-"))
    http_port, grpc_port, metrics_port = free_ports(3)
    log = scratch / "log"
    ours = {
        "TRITIUM_HTTP_PORT": str(http_port),
        "TRITIUM_GRPC_PORT": str(grpc_port),
        "TRITIUM_METRICS_PORT": str(metrics_port),
        "TRITIUM_MODEL_REPOSITORY": str(repository),
        "TRITIUM_RUNTIME_DIR": str(scratch / "run"),
        "TRITIUM_DATA_DIR": str(scratch / "data"),
        "OMP_NUM_THREADS": "1",
    }
    (scratch / "run").mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*argv, *flags],
            cwd=ROOT,
            env={**os.environ, **ours, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Tritium(process, http_port, grpc_port, metrics_port, scratch / "run", log)
    is_whole = False
    try:
        if is_awaited:
            eventually(server.is_ready, seconds=START_SECONDS, what="readiness")
        yield server
        is_whole = process.poll() is None
    finally:
        try:
            exit_status = server.stop()
            assert not is_whole or exit_status == 0, f"tritium exited with {exit_status}:\n{server.output()}"
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def echo_repository(folder: Path, models: Mapping[str, Mapping[str, Any]]) -> Path:
    """A repository of echo models: the arguments of each by its name. A key `config` adds lines to its config.pbtxt."""
    for name, arguments in models.items():
        rest = dict(arguments)
        config = rest.pop("config", "")
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'backend: "echo"\n{config}\n')
        (folder / name / "1" / "model.json").write_text(json.dumps(rest))
    return folder


def free_ports(count: int) -> list[int]:
    """Ports that were free just now, all different.

    They lie below those that the kernel gives away, so that nobody is given one before it is listened on.
    """
    return list(itertools.islice(filter(_is_free, _ports), count))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def status(url: str) -> int:
    """The HTTP status of a GET, 0 when nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def unavailable(reason: str) -> NoReturn:
    """Skip the test for want of something that the machine may lack; CI may not lack it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
