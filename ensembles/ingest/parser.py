"""A parser process: documents in, chunks out, one after the other, under limits of memory and time.

It is killed without harm: it writes nothing but its answers.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from ensembles.ingest.chunk import Cutter
from ensembles.ingest.faults import DocumentError, invalid
from ensembles.ingest.messages import LENGTH, Answer, Order, Parsed, Reader, Refused
from ensembles.ingest.parse import parse
from ensembles.records.rows import Chunking

_MOST_DOCUMENTS = 1000
_WORN_KIB = 400 << 10
_NICENESS = 10  # whoever asks a question goes first


class Parser:
    """Answers orders. Keeps the cutter of the last one."""

    def __init__(self) -> None:
        self._cutter: Cutter | None = None
        self._made_for: tuple[Reader, Chunking] | None = None
        self._count = 0

    def answer(self, order: Order) -> Answer:
        self._count += 1
        _allow(order.cpu_seconds)
        try:
            document = parse(Path(order.path), order.filename, is_careful=order.is_careful)
            pieces = self._cutter_for(order.reader, order.chunking).cut(document)
        except DocumentError as error:
            return Refused(error.code, error.message, self._is_worn())
        except (MemoryError, RecursionError):
            fault = invalid("The document takes more memory to read than it may.")
            return Refused(fault.code, fault.message, is_worn=True)
        return Parsed(pieces, self._is_worn())

    def _cutter_for(self, reader: Reader, chunking: Chunking) -> Cutter:
        if self._cutter is None or self._made_for != (reader, chunking):
            self._cutter, self._made_for = Cutter(reader, chunking), (reader, chunking)
        return self._cutter

    def _is_worn(self) -> bool:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _WORN_KIB
        return grown or self._count >= _MOST_DOCUMENTS


def _allow(cpu_seconds: int) -> None:
    """Let the next document take so much processor time; then the kernel kills with SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_seconds, hard))


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the orders end, or this process has done enough."""
    parser = Parser()
    decoder = msgspec.msgpack.Decoder(Order)
    while head := orders.read(LENGTH.size):
        (size,) = LENGTH.unpack(head)
        answer = parser.answer(decoder.decode(orders.read(size)))
        body = msgspec.msgpack.encode(answer)
        answers.write(LENGTH.pack(len(body)) + body)
        answers.flush()
        if answer.is_worn:
            return


def main() -> None:
    """Entry point of `python -m ensembles.ingest.parser MEMORY_BYTES`, which only a pool starts."""
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        serve(sys.stdin.buffer, answers)
        answers.flush()
    os._exit(0)  # libraries' threads may crash a process that ends in order


if __name__ == "__main__":
    main()
