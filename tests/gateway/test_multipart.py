"""Forms with files, however their bytes are cut."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidRequest
from gateway.multipart import Form

CONTENT_TYPE = "multipart/form-data; boundary=border"


def form(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"--border\r\n%s\r\n\r\n%s\r\n" % part for part in parts) + b"--border--\r\n"


def field(name: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%s"' % name


async def cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes, size: int = 1000, content_type: str = CONTENT_TYPE) -> list[tuple[str, str | None, bytes]]:
    return [
        (part.name, part.filename, b"".join([piece async for piece in part.content]))
        async for part in Form(content_type, cut(data, size)).parts()
    ]


@given(value=st.binary(max_size=60) | st.just(b"--border\r\n\r\n--borde"), size=st.integers(1, 70))
async def test_what_was_sent_comes_out_wherever_it_is_cut(value: bytes, size: int):
    if b"\r\n--border" in b"\r\n" + value:
        value = b""
    head = field(b"file") + b'; filename="\xc3\xa4.txt"\r\nContent-Type: text/plain'
    found = await read(form((field(b"purpose"), b"batch"), (head, value)), size)
    assert found == [("purpose", None, b"batch"), ("file", "ä.txt", value)]


async def test_content_that_nobody_reads_is_skipped():
    data = form((field(b"a") + b'; filename="x"', b"x" * 5000), (field(b"b"), b"y"))
    assert [part.name async for part in Form(CONTENT_TYPE, cut(data, 100)).parts()] == ["a", "b"]


async def test_a_large_part_comes_in_pieces():
    data = form((field(b"file") + b'; filename="x"', b"x" * 100_000))
    async for part in Form(CONTENT_TYPE, cut(data, 1000)).parts():
        sizes = [len(piece) async for piece in part.content]
        assert max(sizes) <= 1000
        assert sum(sizes) == 100_000


async def test_a_part_without_a_disposition_has_no_name():
    assert await read(form((b"Content-Type: text/plain", b"x"))) == [("", None, b"x")]


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=border"])
def test_what_is_no_form_is_refused(content_type: str):
    with pytest.raises(InvalidRequest, match="multipart/form-data") as caught:
        Form(content_type, cut(b"", 1))
    assert caught.value.param == "file"


def test_a_boundary_that_is_too_long_is_refused():
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Form(f"multipart/form-data; boundary={'b' * 1000}", cut(b"", 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before"),
        (form((field(b"a"), b"x"))[:-6], "ends before"),
        (b"what is this", "cannot be read"),
        (form((b"no header", b"x")), "cannot be read"),
        (form((b"X: " + b"x" * 10_000, b"x")), "cannot be read"),
        (form(*[(field(b"a"), b"x")] * 65), "64 parts"),
    ],
)
async def test_a_form_that_is_broken_is_refused(data: bytes, message: str):
    with pytest.raises(InvalidRequest, match=message):
        await read(data)


@pytest.mark.parametrize(("value", "message"), [(b"x" * 70_000, "65536 bytes"), (b"\xff", "UTF-8")])
async def test_a_field_that_is_no_short_text_is_refused(value: bytes, message: str):
    part = await anext(Form(CONTENT_TYPE, cut(form((field(b"a"), value)), 100_000)).parts())
    with pytest.raises(InvalidRequest, match=message) as caught:
        await part.text()
    assert caught.value.param == "a"
