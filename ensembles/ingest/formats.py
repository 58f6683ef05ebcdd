"""What a file is: decided by its first bytes, and by its name where these leave a choice."""

from __future__ import annotations

import zipfile
from enum import StrEnum
from pathlib import Path, PurePath

from ensembles.ingest.faults import DocumentError, invalid, unsupported


class Format(StrEnum):
    """A kind of document that is read."""

    PDF = "PDF"
    DOCX = "DOCX"
    PPTX = "PPTX"
    XLSX = "XLSX"
    HTML = "HTML"
    MARKDOWN = "Markdown"
    TEXT = "text"
    CSV = "CSV"
    TSV = "TSV"
    JSON = "JSON"
    JSONL = "JSONL"


MIB = 1 << 20
WHOLE_BYTES = 128 * MIB
"""The largest file of a format that has to be in memory whole."""
UNPACKED_BYTES = 256 * MIB
"""The most that a packed document may unpack to."""

_HEAD_BYTES = 4096
_PDF_MARK_BYTES = 1024  # what stands before the mark is ignored, as readers do (ISO 32000, annex H)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_PARTS = {"word/": Format.DOCX, "ppt/": Format.PPTX, "xl/": Format.XLSX}
_BINARY_NAMES = {".pdf": Format.PDF, ".docx": Format.DOCX, ".pptx": Format.PPTX, ".xlsx": Format.XLSX}
_TEXT_NAMES = {
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".xhtml": Format.HTML,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
}
_MOST_ENTRIES = 10_000
_MARKUP = (b"<!doctype html", b"<html")
# Byte order marks; UTF-32's before UTF-16's, which it begins with.
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff", b"\xff\xfe", b"\xfe\xff")
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b\b")


def recognise(path: Path, filename: str) -> Format:
    """The format of a file. Raises `DocumentError` for one that is empty, not what its name says, or not read here."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise invalid("The file is empty.")
    suffix = PurePath(filename).suffix.lower()
    found = _binary(path, head) if not _is_text(head) or b"%PDF-" in head[:_PDF_MARK_BYTES] else _text(head, suffix)
    named = _BINARY_NAMES.get(suffix)
    if named is not None and found is not named:
        what = "not what its name says" if found is None else f"a {found.value} file"
        raise invalid(f"The file is named {suffix}, but its content is {what}.")
    if found is None:
        kinds = ", ".join(Format)
        raise unsupported(f"Files of this kind{f' ({suffix})' if suffix else ''} are not read; these are: {kinds}.")
    return found


def _binary(path: Path, head: bytes) -> Format | None:
    """Cases: PDF, a packed Office document, an encrypted one, anything else."""
    if b"%PDF-" in head[:_PDF_MARK_BYTES]:
        return Format.PDF
    if head.startswith(b"PK\x03\x04"):
        return _packed(path)
    if head.startswith(_OLE) and _ENCRYPTED in _directory(path):
        raise invalid("The document is protected by a password.")
    return None


def _text(head: bytes, suffix: str) -> Format:
    if suffix in _TEXT_NAMES:
        return _TEXT_NAMES[suffix]
    return Format.HTML if head.lstrip().lower().startswith(_MARKUP) else Format.TEXT


def _is_text(head: bytes) -> bool:
    """Whether these bytes may be text of any encoding: only UTF-16 and UTF-32 have zeros, in every few bytes."""
    if head.startswith(_MARKS):
        return True
    if 0 in head:
        return is_wide(head)
    return sum(byte in _CONTROLS for byte in head) * 50 < len(head)


def is_wide(head: bytes) -> bool:
    """Whether it looks like UTF-16 without a mark: most even places are zeros, or most odd ones, and no others."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return min(even, odd) * 20 < max(even, odd) and max(even, odd) * 4 > len(head)


def _packed(path: Path) -> Format | None:
    """An Office document, after a look at what it says it unpacks to: nothing is unpacked for that."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise invalid("The document is damaged or cut off: its archive cannot be read.") from error
    names = [entry.filename for entry in entries]
    if "[Content_Types].xml" not in names:
        return None
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED_BYTES or len(entries) > _MOST_ENTRIES:
        raise _too_large(unpacked, len(entries))
    if any(entry.flag_bits & 1 for entry in entries):
        raise invalid("The document is protected by a password.")
    return next((kind for part, kind in _PARTS.items() if any(name.startswith(part) for name in names)), None)


def _too_large(unpacked: int, entries: int) -> DocumentError:
    if entries > _MOST_ENTRIES:
        return invalid(f"The document has {entries} parts, over the limit of {_MOST_ENTRIES}.")
    return invalid(f"The document unpacks to {unpacked // MIB} MB, over the limit of {UNPACKED_BYTES // MIB} MB.")


def _directory(path: Path) -> bytes:
    """The names in an OLE container stand in one of its sectors: in the first megabyte of what Office writes."""
    with path.open("rb") as file:
        return file.read(MIB)
