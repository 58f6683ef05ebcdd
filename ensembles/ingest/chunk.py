"""Documents cut into chunks that respect their structure and never have more tokens than the embedder reads."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from ensembles.ingest.document import Document
from ensembles.ingest.faults import invalid
from ensembles.ingest.messages import Piece, Reader
from ensembles.records.rows import Chunking

TOKENS_A_FILE = 5_000_000
"""OpenAI's limit for a file in a vector store."""

_CHARACTERS_A_TOKEN = 3
_MOST_CHARACTERS_A_TOKEN = 16  # a word without end may be one unknown token
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t#]*$|^(```|~~~)", re.MULTILINE)
_HEADING_CHARACTERS = 100
_AUTO_SHARE = 7 / 8
_AUTO_OVERLAP = 1 / 8
_EMPHASIS = re.compile(r"[*_`]{1,3}(.+?)[*_`]{1,3}")


class Cutter:
    """Cuts documents for one embedder. Making one reads its tokenizer, which is worth keeping."""

    def __init__(self, reader: Reader, chunking: Chunking, *, tokens_a_file: int = TOKENS_A_FILE) -> None:
        self._tokens_a_file = tokens_a_file
        self._tokenizer = tokenizer = _tokenizer(reader.tokenizer)
        self._limit = max(1, reader.max_length - _own_tokens(tokenizer, reader.prompt))
        self.size, self.overlap = size, overlap = sizes(chunking, self._limit)
        self._splitters: tuple[TextSplitter, MarkdownSplitter]
        if tokenizer is None:
            size, overlap = size * _CHARACTERS_A_TOKEN, overlap * _CHARACTERS_A_TOKEN
            self._splitters = TextSplitter(size, overlap), MarkdownSplitter(size, overlap)
        else:
            self._splitters = (
                TextSplitter.from_huggingface_tokenizer(tokenizer, size, overlap),
                MarkdownSplitter.from_huggingface_tokenizer(tokenizer, size, overlap),
            )
        self._characters = self.size * _MOST_CHARACTERS_A_TOKEN
        self._rough = TextSplitter(self._characters)

    def cut(self, document: Document) -> list[Piece]:
        """Raises `DocumentError` for more tokens than a file may have."""
        chunks = self._splitters[document.is_markdown].chunk_indices(document.text)
        if len(chunks) * (self.size - self.overlap) > self._tokens_a_file:
            raise invalid(f"The document has more than {self._tokens_a_file} tokens, the limit for a file.")
        headings = list(_headings(document.text)) if document.is_markdown else []
        at = [offset for offset, _ in headings]
        starts = [offset for offset, _ in document.pages]
        pieces = []
        for offset, text in self._bounded(chunks):
            heading = headings[place - 1][1] if (place := bisect_right(at, offset)) else ""
            page = document.pages[place - 1][1] if (place := bisect_right(starts, offset)) else None
            pieces.append(Piece(text, page, heading, self._embedded(heading, text, is_at_heading=offset in at)))
        return pieces

    def _bounded(self, chunks: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        for offset, text in chunks:
            if len(text) <= self._characters:
                yield offset, text
            else:
                yield from ((offset + start, part) for start, part in self._rough.chunk_indices(text))

    def _embedded(self, heading: str, text: str, *, is_at_heading: bool) -> str:
        if is_at_heading:
            heading = heading.rpartition(" > ")[0]
        if not heading:
            return text
        whole = f"{heading}\n{text}"
        return whole if self._count(whole) <= self._limit else text

    def _count(self, text: str) -> int:
        if self._tokenizer is None:
            return len(text) // _CHARACTERS_A_TOKEN
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def sizes(chunking: Chunking, limit: int) -> tuple[int, int]:
    """Tokens of a chunk and of an overlap, for an embedder that reads so many.

    Where nobody asked for any: room is left for headings, and little is embedded twice.
    """
    if chunking.is_auto:
        size = max(1, min(chunking.max_chunk_size_tokens, int(limit * _AUTO_SHARE)))
        return size, int(size * _AUTO_OVERLAP)
    size = max(1, min(chunking.max_chunk_size_tokens, limit))
    overlap = chunking.chunk_overlap_tokens * size // max(1, chunking.max_chunk_size_tokens)
    return size, min(overlap, size // 2)


def _own_tokens(tokenizer: Tokenizer | None, prompt: str) -> int:
    """How many tokens stand around a text: the model's marks, and its prompt."""
    if tokenizer is None:
        return len(prompt) // _CHARACTERS_A_TOKEN
    return len(tokenizer.encode(prompt).ids) if prompt else int(tokenizer.num_special_tokens_to_add(is_pair=False))


def _tokenizer(path: str) -> Tokenizer | None:
    if not path:
        return None
    tokenizer = Tokenizer.from_file(path)
    # As saved it may cut texts off, and they would all seem to fit.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _headings(text: str) -> Iterator[tuple[int, str]]:
    """(offset, path of headings from the top) of each heading; what looks like one in a block of code is none."""
    path: list[tuple[int, str]] = []
    fence = ""
    for found in _HEADING.finditer(text):
        if mark := found[3]:
            fence = "" if fence == mark else fence or mark
        elif not fence:
            level = len(found[1])
            path = [entry for entry in path if entry[0] < level]
            path.append((level, _EMPHASIS.sub(r"\1", found[2])[:_HEADING_CHARACTERS].strip()))
            yield found.start(), " > ".join(title for _, title in path if title)
