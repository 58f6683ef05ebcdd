"""A Word document of several pages: the handbook of a crane, with headings, a list, a table, running heads and feet."""

from __future__ import annotations

import io

import docx
from docx.enum.text import WD_BREAK

FILENAME = "crane-handbook.docx"

# A chapter a page, a paragraph a line.
_TEXT = """\
# Purpose
This handbook is for those who drive, oil and mend the harbour crane at the eastern quay.
It was written after the crane was rebuilt, when its steam engine gave way to electric motors.
Whoever works on the crane reads it once a year, and signs the list in the office of the harbour master.
# Driving
The crane is driven by one person, who has a licence of class C and has slept for seven hours at least.
Nothing is lifted while the wind blows with more than 14 metres a second: a bell rings in the cabin then.
The jib is turned out of the wind and left free to swing.
A load hangs still before it is turned. Loads of more than 22 tonnes are lifted with both hooks.
## Before each shift
- The brakes hold the empty hook.
- The bell in the cabin rings.
- The horn is heard at the lock.
# Oil and grease
What is oiled too late wears out, and what is oiled too often drips on the cargo.
The table says what each part takes, and how often.
| Part | What it takes | How often
| Slewing ring | lithium grease LX-40 | every 250 hours
| Gearbox of the hoist | mineral oil of grade VG 220 | every 2000 hours
| Rope sheaves | graphite paste | every month
| Door of the cabin | a drop of sewing machine oil | each spring
# Ropes
The hoisting rope is of galvanised steel, 28 millimetres thick and 310 metres long.
It is replaced when ten wires are broken within the length of one lay, and after four years in any case.
An old rope is cut in pieces of two metres and given to the scrap merchant, never to the fishermen.
# When the current fails
The brakes close by their springs when the current fails, and the load hangs where it is.
It is let down by the hand wheel behind the cabin, which takes two people and forty minutes for ten metres.
Nobody stands under a hanging load meanwhile. The watchman closes the quay with the red chain.
"""


def handbook() -> bytes:
    document = docx.Document()
    section = document.sections[0]
    section.header.paragraphs[0].text = "Harbour works, eastern quay"
    section.footer.paragraphs[0].text = "For use on the quay alone"
    paragraph = document.add_heading("Handbook of the harbour crane", 0)
    for line in _TEXT.splitlines():
        mark, _, text = line.partition(" ")
        if mark == "#":
            paragraph.add_run().add_break(WD_BREAK.PAGE)
        if mark in {"#", "##"}:
            paragraph = document.add_heading(text, len(mark))
        elif mark == "|":
            _add_row(document, text.split(" | "))
        else:
            paragraph = document.add_paragraph(text if mark == "-" else line, "List Number" if mark == "-" else None)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def _add_row(document: docx.document.Document, texts: list[str]) -> None:
    table = document.tables[0] if document.tables else document.add_table(0, len(texts))
    for cell, text in zip(table.add_row().cells, texts, strict=True):
        cell.text = text
