"""The pool of parser processes: what becomes of the document, and of the pool, when one breaks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from ensembles.ingest.faults import DocumentError
from ensembles.ingest.messages import Limits, Piece, Reader
from ensembles.ingest.parsers import ParserKilled, Parsers
from ensembles.records.rows import Chunking
from tests.ensembles.ingest import documents
from tests.processes import alive, holds

FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_parser.py")))
Parse = Callable[..., Awaitable[list[Piece]]]


@pytest.fixture
async def parsers() -> AsyncIterator[Parsers]:
    pool = Parsers(2, Limits(wall_seconds=20, cpu_seconds=5), FAULTY)
    yield pool
    await pool.close()


@pytest.fixture
def parse(parsers: Parsers, tmp_path: Path) -> Parse:
    async def parse_text(text: str, filename: str = "a.txt", pool: Parsers = parsers) -> list[Piece]:
        (tmp_path / filename).write_text(text)
        return await pool.parse(tmp_path / filename, filename, Reader(), Chunking())

    return parse_text


async def test_a_process_reads_one_document_after_the_other(parse, parsers):
    await parse("one")
    (pid,) = parsers.pids()
    (piece,) = await parse("two")
    assert piece.text == "two"
    assert parsers.pids() == [pid]


async def test_no_more_processes_than_allowed_read_at_once(parse, parsers):
    await asyncio.gather(*(parse("word", f"{number}.txt") for number in range(6)))
    assert len(parsers.pids()) == 2


async def test_a_refused_document_costs_no_process(parse, parsers):
    with pytest.raises(DocumentError, match="not this") as caught:
        await parse("refuse")
    assert caught.value.code == "unsupported_file"
    assert len(parsers.pids()) == 1


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("abort", "could not be read within 1536 MB"),
        ("crash", "crashes what reads it (SIGSEGV)"),
        ("leave", "crashes what reads it (status 3)"),
        pytest.param("spin", "more than 5 s of processor time", marks=pytest.mark.slow),
    ],
)
async def test_a_document_that_breaks_its_process_is_invalid(parse, parsers, deed, message):
    with pytest.raises(DocumentError) as caught:
        await parse(deed)
    assert caught.value.code == "invalid_file"
    assert message in caught.value.message
    assert parsers.pids() == []
    assert [piece.text for piece in await parse("next")] == ["next"]


async def test_a_pdf_that_breaks_its_process_is_tried_by_the_careful_way(parse):
    assert [piece.text for piece in await parse("abort", "a.pdf")] == ["abort"]


async def test_a_document_that_takes_for_ever_is_given_up(parse):
    pool = Parsers(1, Limits(wall_seconds=0.3), FAULTY)
    with pytest.raises(DocumentError, match=r"longer than 0\.3 s"):
        await parse("hang", pool=pool)
    await pool.close()


async def test_a_process_that_somebody_kills_is_replaced(parse):
    assert [piece.text for piece in await parse("die once")] == ["die once"]


def test_a_process_that_is_killed_while_it_is_started_is_replaced(tmp_path):
    class Unlucky(Parsers):
        kills = 1

        async def _process(self):
            process = await super()._process()
            if self.kills:
                self.kills -= 1
                process.kill()
                await process.wait()
            return process

    async def read() -> list[Piece]:
        pool = Unlucky(1, Limits(wall_seconds=20), FAULTY)
        path = tmp_path / "a.txt"
        path.write_text("a boat")
        pieces = await pool.parse(path, path.name, Reader(), Chunking())
        await pool.close()
        return pieces

    assert [piece.text for piece in uvloop.run(read())] == ["a boat"]


async def test_a_process_that_is_killed_again_and_again_is_given_up(parse):
    with pytest.raises(ParserKilled, match="3 times"):
        await parse("die")


async def test_an_answer_over_the_limit_is_not_taken(parse):
    pool = Parsers(1, Limits(answer_bytes=1 << 20), FAULTY)
    with pytest.raises(DocumentError, match="over the limit of 1 MB"):
        await parse("x" * (2 << 20), pool=pool)
    await pool.close()


async def test_a_worn_process_is_not_used_again(parse, parsers):
    await parse("wear")
    assert parsers.pids() == []


async def test_leaving_kills_the_process_that_reads(parse, tmp_path):
    reading = asyncio.create_task(parse("hang"))
    await holds(lambda: (tmp_path / "a.txt").exists() and "\n" in (tmp_path / "a.txt").read_text())
    pid = int((tmp_path / "a.txt").read_text().split()[-1])
    reading.cancel()
    await asyncio.wait((reading,))
    assert not alive(pid)


async def test_closing_ends_all_processes(parse, parsers):
    await parse("one")
    (pid,) = parsers.pids()
    await parsers.close()
    assert not alive(pid)


async def test_real_documents_come_back_in_chunks(tmp_path):
    (tmp_path / "blob").write_bytes(documents.pdf(("Rotor", documents.TURBINE * 40), ("Stator", "It stands still.")))
    pool = Parsers(1)
    try:
        pieces = await pool.parse(tmp_path / "blob", "a.pdf", Reader(max_length=100), Chunking())
        (tmp_path / "blob").write_bytes(documents.blank_pdf()[:300])
        with pytest.raises(DocumentError, match="is cut off"):
            await pool.parse(tmp_path / "blob", "a.pdf", Reader(max_length=100), Chunking())
    finally:
        await pool.close()
    assert {(piece.page, piece.heading) for piece in pieces} == {(1, "Rotor"), (2, "Stator")}


@pytest.mark.slow
async def test_a_real_parser_has_no_more_memory_than_it_may(tmp_path):
    (tmp_path / "blob").write_bytes(b"[" + b'{"a": 1},' * 1_500_000 + b"1]")
    pool = Parsers(1, Limits(memory_bytes=300 << 20))
    try:
        with pytest.raises(DocumentError, match="memory"):
            await pool.parse(tmp_path / "blob", "a.json", Reader(), Chunking())
    finally:
        await pool.close()
