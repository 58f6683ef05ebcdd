"""API keys: which files are keys, and which requests they let in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.errors import InvalidRequest, NotAuthenticated
from gateway.auth import Keys

Made = Callable[[str], Keys]


@pytest.fixture
def keys(tmp_path: Path) -> Made:
    def make(text: str) -> Keys:
        file = tmp_path / "keys"
        file.write_text(text)
        made = Keys.read(str(file))
        assert made is not None
        return made

    return make


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def test_without_a_file_there_are_no_keys() -> None:
    assert Keys.read(None) is None


def test_every_key_of_the_file_is_let_in_plain_or_hashed(keys: Made) -> None:
    made = keys(
        f"# staff\nsk-one\n\n  sk-two  \n{digest('sk-three')}\n{digest('sk-four').upper().replace('SHA', 'sha')}\n"
    )
    for key in (b"sk-one", b"sk-two", b"sk-three", b"sk-four"):
        made.check({b"authorization": b"Bearer " + key})
        made.check({b"authorization": b"bearer   " + key + b" "})
        made.check({b"x-api-key": key})


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
def test_any_other_key_is_refused_as_unknown(headers: dict[bytes, bytes], keys: Made) -> None:
    with pytest.raises(NotAuthenticated, match="not known"):
        keys("# staff\nsk-one").check(headers)


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
def test_no_key_is_refused_with_how_to_send_one(headers: dict[bytes, bytes], keys: Made) -> None:
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer"):
        keys("sk-one").check(headers)


def test_anthropics_header_counts_beside_another_scheme(keys: Made) -> None:
    keys("sk-one").check({b"authorization": b"Basic dTpw", b"x-api-key": b"sk-one"})


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
        Keys.read(str(tmp_path / "nowhere"))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="binary"):
        Keys.read(str(binary))
