"""Text of any encoding, read piece by piece: its mark, UTF-8, UTF-16 without a mark, else what is most likely."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from ensembles.ingest.faults import invalid
from ensembles.ingest.formats import is_wide

TEXT_CHARACTERS = 32 << 20
"""The longest text of one document, without the spaces that say nothing."""

_PIECE_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 18
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""<meta[^>]+charset\s*=\s*["']?([\w-]+)|<\?xml[^>]+encoding\s*=\s*["']([\w-]+)""", re.IGNORECASE
)
_LONG_SPACE = re.compile(r"[^\S\n]{9,}")
_LONG_BREAK = re.compile(r"\n(?:[^\S\n]*\n){3,}")  # after the runs of spaces: alone it would take quadratic time
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\ufffe\uffff]")


def read_text(path: Path) -> str:
    """The whole text of a file, runs of spaces and blank lines shortened. Raises `DocumentError` for too much of it."""
    pieces, size = [], 0
    for piece in decoded(path):
        pieces.append(piece)
        size += len(piece)
        if size > TEXT_CHARACTERS:
            raise too_long()
    return shorten("".join(pieces))


def decoded(path: Path) -> Iterator[str]:
    """The text in pieces of about a megabyte; what no encoding explains becomes U+FFFD."""
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
        file.seek(0)
        decoder = codecs.getincrementaldecoder(detect(sample))(errors="replace")
        while data := file.read(_PIECE_BYTES):
            yield shorten(_INVISIBLE.sub("", decoder.decode(data)))
        yield _INVISIBLE.sub("", decoder.decode(b"", final=True))


def detect(sample: bytes) -> str:
    """Cases: a mark, zeros, valid UTF-8, a declaration in markup, a guess by the letters' frequencies."""
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if 0 in sample and is_wide(sample):
        return "utf-16-le" if sample[1::2].count(0) > sample[::2].count(0) else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return _declared(sample) or _guessed(sample)
    return "utf-8"


def shorten(text: str) -> str:
    """The text without runs of spaces and blank lines that would fill memory and say nothing."""
    return _LONG_BREAK.sub("\n\n\n", _LONG_SPACE.sub("        ", text))


def too_long() -> Exception:
    return invalid(f"The document's text is over the limit of {TEXT_CHARACTERS >> 20} million characters.")


def _declared(sample: bytes) -> str:
    found = _DECLARED.search(sample[:4096])
    if found is None:
        return ""
    try:
        name = codecs.lookup((found[1] or found[2]).decode("ascii")).name
    except LookupError:
        return ""
    return "" if name.startswith("utf") else name


def _guessed(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(sample[: _SAMPLE_BYTES // 8]).best()
    return "cp1252" if best is None else best.encoding
