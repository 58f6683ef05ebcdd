"""Real documents of every format, made by other people's libraries, and some that are none."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import docx
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

TURBINE = "The turbine turns fast while the wind blows from the north. "
HTML = """<!DOCTYPE html><html><head><meta charset="latin-1"><title>Engines</title><script>var x = 1</script></head>
<body><h1>Engines</h1><p>Naïve engines turn.</p><h2>Diesel</h2><p>It burns oil.</p><ul><li>slowly</li></ul>
</body></html>"""

SITE = """<!DOCTYPE html><html><head><title>Engines</title></head><body>
<div class="navheader"><a href="b.html"><img src="next.png" alt="Next"/></a></div><nav>Menu</nav>
<h1>Engines</h1><div class="toc"><a href="#fuel">Fuel</a></div>
<p>An engine turns
<b>fast</b> while it<br/>has <a href="https://example.org/fuel" title="Fuel">fuel</a>;
see <a href="oil.html">Oil</a>.</p>
<pre>turn
  left</pre></body></html>"""


def pdf(*chapters: tuple[str, str]) -> bytes:
    """A page a chapter: its heading and its text."""
    styles = getSampleStyleSheet()
    story = []
    for title, text in chapters:
        story += [Paragraph(title, styles["Heading1"]), Paragraph(text, styles["BodyText"]), PageBreak()]
    file = io.BytesIO()
    SimpleDocTemplate(file).build(story)
    return file.getvalue()


def locked_pdf() -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file, encrypt=StandardEncryption("secret"))
    canvas.drawString(100, 700, TURBINE)
    canvas.save()
    return file.getvalue()


def blank_pdf() -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file)
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def word(*parts: tuple[str, str], is_paged: bool = False) -> bytes:
    """Headings of the first level with their texts, and a table at the end, perhaps on a page of its own."""
    document = docx.Document()
    for title, text in parts:
        document.add_heading(title, 1)
        document.add_paragraph(text)
    if is_paged:
        document.add_page_break()
    table = document.add_table(2, 2)
    for place, value in enumerate(("part", "weight", "rotor", "nine tons")):
        table.cell(place // 2, place % 2).text = value
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def packed(names: Sequence[str], claimed_bytes: int = 0) -> bytes:
    """An archive of entries, each of which claims to unpack to so many bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"")
            archive.getinfo(name).file_size = claimed_bytes
    return file.getvalue()
