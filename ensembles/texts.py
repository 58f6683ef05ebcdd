"""Texts of messages: their content is a string, or parts of which some are texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def text_of(content: object) -> str:
    """All the text of a message's content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in _TEXT_PARTS]
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def last_question(messages: Sequence[Mapping[str, Any]]) -> int:
    """The place of the last message of the user's that has text, -1 where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user" and text_of(messages[index].get("content")).strip():
            return index
    return -1
