"""API keys: which requests they let in, for whom, and how a file is read again."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from backends.errors import InvalidRequest, NotAuthenticated
from gateway.auth import Keys
from gateway.settings import Settings
from gateway.tenants import ANYONE
from tests.waiting import eventually_async

Made = Callable[[str], Keys]


@pytest.fixture
def keys(tmp_path: Path) -> Made:
    def make(text: str) -> Keys:
        file = tmp_path / "keys"
        file.write_text(text)
        made = Keys.read(Settings(api_key_file=file))
        assert made is not None
        return made

    return make


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def test_without_a_file_there_are_no_keys() -> None:
    assert Keys.read(Settings()) is None


async def test_every_key_of_the_file_is_let_in_plain_or_hashed(keys: Made) -> None:
    made = keys(
        f"# staff\nsk-one\n\n  sk-two  \n{digest('sk-three')}\n{digest('sk-four').upper().replace('SHA', 'sha')}\n"
    )
    for key in (b"sk-one", b"sk-two", b"sk-three", b"sk-four"):
        assert await made.tenant({b"authorization": b"Bearer " + key}) is ANYONE
        assert await made.tenant({b"authorization": b"bearer   " + key + b" "}) is ANYONE
        assert await made.tenant({b"x-api-key": key}) is ANYONE


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer sk-ones"},
        {b"authorization": b"Bearer # staff"},
        {b"authorization": b"Bearer SK-ONE"},
        {b"x-api-key": b"sk-on"},
        {b"authorization": b"Bearer " + digest("sk-one").encode()},
        {b"authorization": b"Bearer \xff\xfe"},
    ],
)
async def test_any_other_key_is_refused_as_unknown(headers: dict[bytes, bytes], keys: Made) -> None:
    with pytest.raises(NotAuthenticated, match="not known"):
        await keys("# staff\nsk-one").tenant(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b"sk-one"},
        {b"authorization": b"Basic sk-one"},
        {b"authorization": b"Bearer "},
        {b"x-api-key": b""},
    ],
)
async def test_no_key_is_refused_with_how_to_send_one(headers: dict[bytes, bytes], keys: Made) -> None:
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer"):
        await keys("sk-one").tenant(headers)


async def test_anthropics_header_counts_beside_another_scheme(keys: Made) -> None:
    await keys("sk-one").tenant({b"authorization": b"Basic dTpw", b"x-api-key": b"sk-one"})


@pytest.mark.parametrize("text", ["", "# only a comment\n\n"])
def test_a_file_without_a_key_is_refused(text: str, keys: Made) -> None:
    with pytest.raises(InvalidRequest, match="no API key"):
        keys(text)


@pytest.mark.parametrize("line", ["sha256:", "sha256:abcd", "sha256:" + "zz" * 32, digest("k") + "00"])
def test_a_bad_digest_is_refused_by_its_line(line: str, keys: Made) -> None:
    with pytest.raises(InvalidRequest, match="line 2"):
        keys(f"sk-one\n{line}\n")


def test_a_file_that_cannot_be_read_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nowhere"):
        Keys.read(Settings(api_key_file=tmp_path / "nowhere"))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="binary"):
        Keys.read(Settings(api_key_file=binary))


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Keys, Path]]:
    """Keys that are watched, and their file."""
    file = tmp_path / "tenants.toml"
    file.write_text('[tenants.a]\nkeys = ["one"]\n')
    keys = Keys.read(Settings(api_key_file=file))
    assert keys is not None
    watching = asyncio.create_task(keys.watch())
    yield keys, file
    watching.cancel()
    await asyncio.wait([watching])


async def whose(keys: Keys, key: bytes) -> str | None:
    try:
        return (await keys.tenant({b"x-api-key": key})).name
    except NotAuthenticated:
        return None


async def test_a_changed_file_is_read_without_being_asked(watched: tuple[Keys, Path]) -> None:
    keys, file = watched
    file.write_text('[tenants.b]\nkeys = ["two"]\n')

    async def changed() -> bool:
        return await whose(keys, b"two") == "b" and await whose(keys, b"one") is None

    await eventually_async(changed)


async def test_a_file_put_in_its_place_is_read(watched: tuple[Keys, Path]) -> None:
    keys, file = watched
    new = file.with_suffix(".new")
    new.write_text('[tenants.a]\nkeys = ["two"]\n')
    new.replace(file)

    async def changed() -> bool:
        return await whose(keys, b"two") == "a"

    await eventually_async(changed)


async def test_asked_to_it_reads_at_once(watched: tuple[Keys, Path]) -> None:
    keys, file = watched
    stamp = file.stat()
    file.write_text('[tenants.a]\nkeys = ["two"]\n')
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    keys.reload()

    async def changed() -> bool:
        return await whose(keys, b"two") == "a"

    await eventually_async(changed, seconds=0.8)


async def test_a_bad_file_changes_nothing_and_is_complained_of(
    watched: tuple[Keys, Path], caplog: pytest.LogCaptureFixture
) -> None:
    keys, file = watched
    file.write_text('[tenants.b]\nkeys = ["two"]\nweight = -1\n')
    keys.reload()

    async def complained() -> bool:
        return "stay as they were" in caplog.text

    await eventually_async(complained)
    assert await whose(keys, b"one") == "a"
    assert await whose(keys, b"two") is None
    file.unlink()
    caplog.clear()
    await eventually_async(complained)
    assert await whose(keys, b"one") == "a"
