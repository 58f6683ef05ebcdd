"""Words as tokens: splitting, counting, token ids, and vectors in which texts that share words are near."""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from array import array
from collections import OrderedDict
from itertools import islice

_TOKEN = re.compile(r"\s*\S+(?:\s+\Z)?")
_WORD = re.compile(r"\w+")
_VOCABULARY_LIMIT = 65536

Prompts = str | list[str | int | list[int]]
"""Text or token ids, one or several."""


def split(text: str, limit: int | None = None) -> list[str]:
    """The tokens of a text, the first `limit` of them: words with the space before. Joined, they are the text."""
    tokens = [match.group() for match in islice(_TOKEN.finditer(text), limit)]
    return tokens if tokens or not text else [text]


def count(text: str) -> int:
    """How many tokens `split` gives, at a small part of its cost."""
    return len(text.split()) or bool(text)


def shards(text: str, length: int = 4) -> list[str]:
    """Pieces of `length` characters: how JSON, which may hold no space, becomes several tokens."""
    return [text[start : start + length] for start in range(0, len(text), length)]


class Vocabulary:
    """Token ids: the same word has the same id in every process, and the words seen lately can be had back."""

    def __init__(self) -> None:
        self._words: OrderedDict[int, str] = OrderedDict()

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in split(text)]

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; an id that no `encode` has given reads as its number."""
        return "".join(self._words.get(token, f" {token}") for token in ids)

    def texts(self, prompts: Prompts) -> list[str]:
        """Every prompt as text."""
        if isinstance(prompts, str):
            return [prompts]
        if prompts and all(isinstance(each, int) for each in prompts):
            prompts = [[each for each in prompts if isinstance(each, int)]]
        return [
            each if isinstance(each, str) else self.decode([each] if isinstance(each, int) else each)
            for each in prompts
        ]

    def _id(self, word: str) -> int:
        token = zlib.crc32(word.encode()) & 0x7FFFFFFF
        while self._words.setdefault(token, word) != word:
            token += 1
        self._words.move_to_end(token)
        if len(self._words) > _VOCABULARY_LIMIT:
            self._words.popitem(last=False)
        return token


def embed(text: str, dimensions: int) -> array[float]:
    """A unit vector of `dimensions` float32 values, made from the words of the text."""
    vector = [0.0] * dimensions
    for word in _WORD.findall(text.lower()):
        digest = hashlib.blake2b(word.encode(), digest_size=16).digest()
        for start in range(0, 16, 4):
            place = int.from_bytes(digest[start : start + 3]) % dimensions
            vector[place] += 1.0 if digest[start + 3] & 1 else -1.0
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:
        return array("f", [1.0, *vector[1:]])
    return array("f", [value / norm for value in vector])


def similarity(one: str, other: str, dimensions: int) -> float:
    """How near two texts are, from 0 (no word shared) to 1 (the same words)."""
    left, right = embed(one, dimensions), embed(other, dimensions)
    return min(1.0, max(0.0, sum(a * b for a, b in zip(left, right, strict=True))))
