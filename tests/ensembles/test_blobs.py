"""Contents of files on a disk: whole or not there, shared while they are the same."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.errors import BodyTooLarge, Unavailable
from ensembles.blobs import Blobs, Draft


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "files")


async def placed(blobs: Blobs, data: bytes, file_id: str) -> Draft:
    draft = await blobs.receive(pieces(data))
    await blobs.place(draft, file_id)
    return draft


async def test_what_comes_is_hashed_and_kept(blobs: Blobs):
    draft = await blobs.receive(pieces(b"a" * 2_000_000, b"", b"b"))
    assert (draft.bytes, draft.sha256) == (2_000_001, hashlib.sha256(b"a" * 2_000_000 + b"b").hexdigest())
    await blobs.place(draft, "file-1")
    assert blobs.path(draft.sha256, "file-1").read_bytes() == b"a" * 2_000_000 + b"b"
    assert not draft.path.exists()


async def test_nothing_is_a_file_too(blobs: Blobs):
    draft = await placed(blobs, b"", "file-1")
    assert draft.bytes == 0
    assert blobs.path(draft.sha256, "file-1").read_bytes() == b""


async def test_what_is_over_the_limit_is_refused_as_soon_as_it_is(blobs: Blobs):
    came = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal came
        while True:
            came += 1
            yield b"x" * 1000

    with pytest.raises(BodyTooLarge, match="10000 bytes") as caught:
        await blobs.receive(endless(), 10_000)
    assert (came, caught.value.param) == (11, "file")


async def test_a_large_file_takes_little_memory(blobs: Blobs):
    async def much() -> AsyncIterator[bytes]:
        for _ in range(800):
            yield bytes(64 * 1024)

    await placed(blobs, b"warm", "file-0")
    tracemalloc.start()
    await blobs.discard(await blobs.receive(much()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 << 20


async def test_the_same_contents_are_on_the_disk_once(blobs: Blobs):
    one, two = await placed(blobs, b"same", "file-1"), await placed(blobs, b"same", "file-2")
    assert blobs.path(one.sha256, "file-1").samefile(blobs.path(two.sha256, "file-2"))
    await blobs.remove(one.sha256, "file-1")
    assert blobs.path(two.sha256, "file-2").read_bytes() == b"same"
    await blobs.remove(two.sha256, "file-2")
    await blobs.remove(two.sha256, "file-2")
    assert not blobs.path(two.sha256, "file-2").parent.exists()


async def test_placing_and_removing_the_same_contents_at_once_loses_nothing(blobs: Blobs):
    async def come_and_go(number: int) -> None:
        for turn in range(10):
            name = f"file-{number}-{turn}"
            draft = await placed(blobs, b"same", name)
            assert blobs.path(draft.sha256, name).read_bytes() == b"same"
            await blobs.remove(draft.sha256, name)

    await asyncio.gather(*(come_and_go(number) for number in range(8)))


async def test_those_that_were_placed_long_ago_are_told(blobs: Blobs):
    draft = await placed(blobs, b"old", "file-1")
    assert await blobs.older_than(3600) == []
    assert await blobs.older_than(-1) == [(draft.sha256, "file-1")]


async def test_drafts_that_nobody_finished_are_deleted(blobs: Blobs):
    young, old = await blobs.receive(pieces(b"young")), await blobs.receive(pieces(b"old"))
    os.utime(old.path, (0, 0))
    await blobs.older_than(0)
    assert young.path.exists()
    assert not old.path.exists()


async def test_a_folder_that_cannot_be_written_is_not_available(tmp_path: Path):
    (tmp_path / "files").write_text("no folder")
    blobs = Blobs(tmp_path / "files")
    with pytest.raises(Unavailable, match="folder of files"):
        await blobs.receive(pieces(b"x"))


async def test_a_draft_that_is_gone_cannot_be_placed(blobs: Blobs):
    draft = await blobs.receive(pieces(b"x"))
    await blobs.discard(draft)
    with pytest.raises(Unavailable):
        await blobs.place(draft, "file-1")
