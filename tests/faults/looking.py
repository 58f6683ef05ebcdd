"""Looking into a running gateway: its engines, its counters, its processes."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import httpx

from tests.engines import EchoEngine
from tests.processes import command_line, descendants
from tests.servers import Tritium
from tests.waiting import eventually

_SAMPLE = re.compile(r"^(\w[\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@contextmanager
def engine_of(server: Tritium, model: str = "echo", number: int = 0) -> Iterator[EchoEngine]:
    """The engine that serves a model, or one of several, to be looked into; the gateway starts and stops it."""
    path = str(server.runtime_dir / (f"{model}-1.{number}.sock" if number else f"{model}-1.sock"))
    transport = httpx.HTTPTransport(uds=path, retries=1, verify=False)
    with httpx.Client(transport=transport, base_url="http://echo") as control:
        yield EchoEngine(cast("object", None), f"unix:{path}", control)  # type: ignore[arg-type]  # it is not ours


def samples(server: Tritium, route: str = "/metrics") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    with urllib.request.urlopen(server.metrics_url + route, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (name, frozenset(_LABEL.findall(labels))): float(value)
        for name, labels, value in _SAMPLE.findall(text)  # a parser proper takes ten times as long
    }


def count(server: Tritium, name: str, **labels: str) -> float:
    """The sum of the samples of that name that carry these labels."""
    wanted = set(labels.items())
    return sum(
        value for (found, carried), value in samples(server).items() if found == f"tritium_{name}" and wanted <= carried
    )


def at_rest(server: Tritium) -> None:
    """Wait until no request is under way."""
    eventually(lambda: count(server, "requests_in_flight") == 0, what="no request in flight")


def server_pids(server: Tritium) -> list[int]:
    """Its server processes."""
    return [pid for pid in descendants(server.pid) if "-m gateway.server" in command_line(pid)]


def engine_pids(server: Tritium) -> list[int]:
    """Its echo engines, without their guards."""
    below = {pid: command_line(pid) for pid in descendants(server.pid)}
    return [pid for pid, line in below.items() if "-m backends.echo" in line and "guard" not in line]


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def connections(pid: int) -> int:
    """The sockets that a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += link.readlink().name.startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def complaints(server: Tritium) -> list[str]:
    """What it has logged that is neither an access line nor what it says at the start."""
    words = ("Traceback", "ERROR", "Exception", "Error:", "WARNING", "Warning")
    return [line for line in server.output().splitlines() if any(word in line for word in words)]
