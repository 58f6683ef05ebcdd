"""Header blocks (HPACK, RFC 7541): decoded once as long as a client repeats itself, encoded without a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError

Headers = list[tuple[bytes, bytes]]

_Head = TypeVar("_Head")
_MOST_KEPT = 64
_KEPT_BYTES = 512
_RESIZES = 0x20  # how a block begins that sets the table's size (RFC 7541 §6.3): it must be heard each time


class HeaderError(Exception):
    """A block that cannot be decoded: the connection's table is lost with it."""


class HeaderDecoder(Generic[_Head]):
    """A connection's decoder. What `read` makes of a list of headers is kept for blocks that come again.

    The same bytes mean the same headers as long as the dynamic table does not change, and clients index what they send
    with every call: most blocks are some ten bytes that were seen before.
    """

    def __init__(self, limit_bytes: int, read: Callable[[Headers], _Head]) -> None:
        self._decoder = Decoder(limit_bytes)
        self._read = read
        self._kept: dict[bytes, _Head] = {}
        self._newest: tuple[bytes, bytes] | None = None
        self._count = 0

    def decode(self, block: bytes) -> _Head:
        """Raises `HeaderError`."""
        head = self._kept.get(block)
        if head is not None:
            return head
        try:
            headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise HeaderError(str(error)) from error
        head = self._read(headers)
        entries = self._decoder.header_table.dynamic_entries
        newest = entries[0] if entries else None
        if newest is not self._newest or len(entries) != self._count:
            self._newest, self._count = newest, len(entries)
            self._kept.clear()
        elif len(block) <= _KEPT_BYTES and len(self._kept) < _MOST_KEPT and block[0] & 0xE0 != _RESIZES:
            self._kept[block] = head
        return head


def encode(headers: Iterable[tuple[bytes, bytes]], status: int | None = None) -> bytes:
    """A block of literals that no table is needed for (RFC 7541 §6.2.2), after `:status` where one is given."""
    block = b""
    if status is not None:
        block = b"\x88" if status == 200 else b"\x08\x03%d" % status  # index 8 is ":status: 200"
    return block + b"".join([b"\x00" + _text(name) + _text(value) for name, value in headers])


def _text(text: bytes) -> bytes:
    """A string literal without Huffman coding (RFC 7541 §5.2)."""
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    prefix, size = bytearray(b"\x7f"), size - 0x7F
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + text
