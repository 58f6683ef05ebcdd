"""Documents of all formats as text with headings and pages. In a parser process alone: libraries may crash on some."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ensembles.ingest import markup, tabular
from ensembles.ingest.document import Document
from ensembles.ingest.encodings import TEXT_CHARACTERS, read_text, shorten, too_long
from ensembles.ingest.faults import DocumentError, invalid
from ensembles.ingest.formats import MIB, WHOLE_BYTES, Format, recognise
from ensembles.ingest.pages import joined

if TYPE_CHECKING:
    import xberg

_OFFICE = "application/vnd.openxmlformats-officedocument."
_MEDIA_TYPES = {
    Format.PDF: "application/pdf",
    Format.DOCX: f"{_OFFICE}wordprocessingml.document",
    Format.PPTX: f"{_OFFICE}presentationml.presentation",
    Format.XLSX: f"{_OFFICE}spreadsheetml.sheet",
    Format.HTML: "text/html",
}
_STREAMED = {Format.TEXT, Format.MARKDOWN, Format.CSV, Format.TSV, Format.JSONL}
# A file that is optimised for the web says its own length at its beginning (ISO 32000, annex F).
_LINEARIZED = re.compile(rb"/Linearized\b[^>]*?/L\s+(\d+)")
_HEADING_LINE = re.compile(r"^#{1,6} .*$", re.MULTILINE)
_TITLE = re.compile(r"\A---\n.*?\n## title: ([^\n]*)\n|\A---\ntitle: ([^\n]*)\n.*?---\n", re.DOTALL)


def parse(path: Path, filename: str, *, is_careful: bool = False) -> Document:
    """Read a document. `is_careful`: by the slower and plainer way, after the other one has crashed.

    Raises `DocumentError`, also for a document without any text.
    """
    kind = recognise(path, filename)
    size = path.stat().st_size
    if kind not in _STREAMED and size > WHOLE_BYTES:
        limit = f"{WHOLE_BYTES // MIB} MB"
        raise invalid(f"The file has {size // MIB} MB, over the limit of {limit} for {kind.value}.")
    document = _read(path, kind, is_careful)
    if len(document.text) > TEXT_CHARACTERS:
        raise too_long()
    if not document.text.strip():
        hint = " Pages that are images are not read." if kind is Format.PDF else ""
        raise invalid(f"The document has no text.{hint}")
    return document


def _read(path: Path, kind: Format, is_careful: bool) -> Document:
    if kind is Format.PDF:
        return _read_pdf(path, is_careful)
    if kind is Format.HTML:
        return _read_html(path)
    if kind in _MEDIA_TYPES:
        return _extract(path.read_bytes(), kind)
    if kind is Format.JSON:
        return Document(tabular.read_json(path))
    if kind is Format.JSONL:
        return Document(tabular.read_jsonl(path))
    if kind in {Format.CSV, Format.TSV}:
        return Document(tabular.read_csv(path, "\t" if kind is Format.TSV else None))
    return Document(read_text(path), is_markdown=kind is Format.MARKDOWN)


def _read_pdf(path: Path, is_careful: bool) -> Document:
    data = path.read_bytes()
    _check_end(data)
    if not is_careful:
        try:
            document = _extract(data, Format.PDF)
            if document.text.strip():
                return document
        except DocumentError:
            pass  # what one library cannot read another one may
    return _read_pages(data)


def _check_end(data: bytes) -> None:
    """Readers mend a file that is cut off, and nobody would learn that a part of it is missing."""
    said = _LINEARIZED.search(data[:2048])
    if b"%%EOF" not in data or (said is not None and int(said[1]) > len(data)):
        raise invalid("The PDF is cut off: its end is missing.")


def _read_html(path: Path) -> Document:
    """A page that only leads elsewhere, such as an index, is read with that."""
    data = markup.unbroken(read_text(path)).encode()
    document = _extract(data, Format.HTML)
    if not _HEADING_LINE.sub("", document.text).strip():
        document = _extract(data, Format.HTML, is_whole=True)
    document.text = markup.plain(document.text).rstrip()
    return document


def _extract(data: bytes, kind: Format, *, is_whole: bool = False) -> Document:
    """`is_whole`: what of a web page leads elsewhere is read as well."""
    import xberg

    config = xberg.ExtractionConfig(
        output_format="markdown",
        pages=xberg.PageConfig(extract_pages=kind in {Format.PDF, Format.PPTX}),
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        max_archive_depth=0,
        max_concurrent_extractions=1,
        html_options=xberg.ConversionOptions(
            exclude_selectors=[] if is_whole else list(markup.ASIDE),
            preprocessing=xberg.PreprocessingOptions(remove_navigation=not is_whole),
        ),
    )
    asked = xberg.ExtractInput(kind="bytes", bytes=data, mime_type=_MEDIA_TYPES[kind])
    try:
        (found,) = asyncio.run(_extracted(asked, config)).results
    except (RuntimeError, ValueError, OSError, xberg.XbergError) as error:
        raise _refusal(kind, str(error)) from error
    # What wrote a Word file may not have told where its pages end.
    if found.pages and (len(found.pages) > 1 or kind is not Format.DOCX):
        return joined([(page.page_number, page.content) for page in found.pages])
    return Document(shorten(_without_front_matter(found.content)), is_markdown=True)


async def _extracted(asked: xberg.ExtractInput, config: xberg.ExtractionConfig) -> xberg.ExtractionResult:
    import xberg

    return await xberg.extract(asked, config)


def _read_pages(data: bytes) -> Document:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
        try:
            texts = [page.get_textpage().get_text_bounded() for page in pdf]
        finally:
            pdf.close()
    except pypdfium2.PdfiumError as error:
        raise _refusal(Format.PDF, str(error)) from error
    return joined([(number, text.replace("\r\n", "\n")) for number, text in enumerate(texts, 1)])


def _without_front_matter(text: str) -> str:
    """A title that the page itself does not begin with becomes its heading."""
    found = _TITLE.match(text)
    if found is None:
        return text
    title, rest = " ".join((found[1] or found[2]).split()), text[found.end() :].lstrip()
    return rest if rest.partition("\n")[0].lstrip("# ") == title else f"# {title}\n\n{rest}"


def _refusal(kind: Format, reason: str) -> DocumentError:
    if "password" in reason.lower() or "encrypted" in reason.lower():
        return invalid("The document is protected by a password.")
    return invalid(f"The {kind.value} document is damaged: {reason[:300]}")
