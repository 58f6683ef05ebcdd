"""A document as it was read: its text, and where its pages begin."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Document:
    """`pages` are (offset in the text, number from 1 on) in order, empty where there are none.

    `is_markdown`: headings, lists and tables are marked as in Markdown.
    """

    text: str
    is_markdown: bool = False
    pages: list[tuple[int, int]] = field(default_factory=list)
