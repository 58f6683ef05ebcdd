"""A parser process that does to itself what some documents do to a real one; the file's first line says what."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import msgspec

from ensembles.ingest.messages import LENGTH, Order, Parsed, Piece, Refused
from ensembles.records.rows import ErrorCode


def answer(order: Order) -> Parsed | Refused:
    lines = Path(order.path).read_text().splitlines()
    with Path(order.path).open("a") as file:
        file.write(f"\n{os.getpid()}")
    match lines[0]:
        case "spin":
            resource.setrlimit(resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
            while True:
                pass
        case "hang":
            time.sleep(100)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once" if len(lines) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "abort" if not order.is_careful:
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGABRT)
        case "crash":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            os._exit(3)
        case "refuse":
            return Refused(ErrorCode.UNSUPPORTED_FILE, "not this")
        case "wear":
            return Parsed([Piece("worn", None, "", "worn")], is_worn=True)
    return Parsed([Piece(lines[0], None, "", order.filename)])


def main() -> None:
    while head := sys.stdin.buffer.read(LENGTH.size):
        order = msgspec.msgpack.decode(sys.stdin.buffer.read(LENGTH.unpack(head)[0]), type=Order)
        body = msgspec.msgpack.encode(answer(order))
        sys.stdout.buffer.write(LENGTH.pack(len(body)) + body)
        sys.stdout.buffer.flush()


main()
