"""Malformed requests, and what a server process holds before and after them."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.processes import command_line, descendants
from tests.servers import Tritium


def malformed(chance: random.Random, whole: Sequence[bytes]) -> bytes:
    """A request with bytes of it changed, taken out, doubled or put at the wrong place."""
    request = bytearray(chance.choice(whole))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(request))
        match chance.randrange(4):
            case 0:
                request[place] = chance.randrange(256)
            case 1:
                del request[place : place + chance.randint(1, 40)]
            case 2:
                request[place:place] = request[place : place + chance.randint(1, 40)]
            case _:
                request[place:place] = chance.randbytes(chance.randint(1, 8))
        if not request:
            break
    return bytes(request)


def send(address: tuple[str, int], batch: list[bytes]) -> None:
    """Each over a connection of its own, left without reading all of the answer."""
    open_ones = []
    for request in batch:
        client = socket.create_connection(address, timeout=10)
        client.sendall(request)
        open_ones.append(client)
    for client in open_ones:
        client.shutdown(socket.SHUT_WR)
        client.close()


def server_process(server: Tritium) -> int:
    (pid,) = (pid for pid in descendants(server.pid) if "gateway.server" in command_line(pid))
    return pid


def resident_bytes(pid: int) -> int:
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
