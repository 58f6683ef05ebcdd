"""What of a web page is its text: navigation, images and where links within the site lead are left out."""

from __future__ import annotations

import re

ASIDE = (
    "nav",
    "[role=navigation]",
    "[role=search]",
    ".navheader",
    ".navfooter",
    ".navbar",
    ".breadcrumb",
    ".breadcrumbs",
    ".sidebar",
    ".sphinxsidebar",
    ".toc",
    "#toc",
    ".headerlink",
)
"""CSS selectors of what leads elsewhere, by HTML's own elements and by the names that generators of pages use."""

# A break and the spaces around it are one space, but where it is set as it stands; readers lose it beside an element.
_BREAK = re.compile(r"(<(pre|textarea|script|style)\b.*?</\2\s*>)|\s*\n\s*", re.DOTALL | re.IGNORECASE)
_IMAGE = re.compile(r"!\[([^\]\n]*)\]\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)")
_LINK = re.compile(r"\[([^\[\]\n]*)\]\(<?([^()\s>]*(?:\([^()\s>]*\)[^()\s>]*)*)>?(?: \"[^\n]*?\")?\)")
_ABSOLUTE = ("http://", "https://", "mailto:")


def unbroken(html: str) -> str:
    """The same page without line breaks that say nothing."""
    return _BREAK.sub(lambda found: found[1] or " ", html)


def plain(markdown: str) -> str:
    """Images as what they stand for, links within the site as their text; those to elsewhere stay, without titles."""
    return _LINK.sub(_text, _IMAGE.sub(r"\1", markdown)).replace("\xa0", " ")


def _text(link: re.Match[str]) -> str:
    text, target = link[1], link[2]
    if not target.lower().startswith(_ABSOLUTE):
        return text
    return target if text in {target, target.partition(":")[2]} else f"[{text}]({target})"
