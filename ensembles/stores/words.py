"""The words of a text, as a store indexes them that has no index of texts of its own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Ideographs, kana and Hangul: written without spaces, or with endings that differ, so pairs of letters are indexed.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_LONGEST_WORD = 100


def words_of(text: str) -> Iterator[str]:
    """Words in lower case and without accents, in their order.

    Where words are not told by spaces, each letter and each pair of them, so that any part is found by its pairs.
    """
    plain = "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    for found in _WORD.finditer(unicodedata.normalize("NFC", plain)):
        word = found.group()
        if not _IS_UNSPACED.match(word):
            yield word[:_LONGEST_WORD]
            continue
        yield from word
        yield from (word[index : index + 2] for index in range(len(word) - 1))
