"""Object storage as tests start it: moto's S3 in a process of its own, with one bucket, in memory."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from tests.servers import free_ports, status, unavailable
from tests.waiting import eventually

BUCKET = "documents"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running one. `environment` is what who uses it needs."""

    endpoint: str

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/chunks"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Its environment is this process's too until the block ends."""
    if find_spec("moto") is None:
        unavailable("moto is not installed: run `make test`")
    port = free_ports(1)[0]
    server = S3Server(f"http://127.0.0.1:{port}")
    argv = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: status(f"{server.endpoint}/moto-api/data.json") == 200, what="moto", seconds=30)
        with urllib.request.urlopen(urllib.request.Request(f"{server.endpoint}/{BUCKET}", method="PUT"), timeout=10):
            pass
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield server
    finally:
        process.kill()
        process.wait()
