"""Documents cut into chunks that respect their structure and never have more tokens than the embedder reads."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
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
_FIRST_HEADINGS = re.compile(r"(?:#{1,6}[ \t][^\n]*(?:\n+|\Z))*")
_LAST_HEADINGS = re.compile(r"(?:^#{1,6}[ \t][^\n]*(?:\n+|\Z))+\Z", re.MULTILINE)
_TABLE = re.compile(r"^(\|[^\n]*\n\|[ :|-]+\|\n)(?:\|[^\n]*(?:\n|\Z))*", re.MULTILINE)
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
        # Room for a heading that would stand alone is what was left for headings, where nobody asked for a size.
        self._room = self._limit if chunking.is_auto else self.size
        self._characters = self.size * _MOST_CHARACTERS_A_TOKEN
        self._rough = TextSplitter(self._characters)

    def cut(self, document: Document) -> list[Piece]:
        """Raises `DocumentError` for more tokens than a file may have."""
        chunks = self._splitters[document.is_markdown].chunk_indices(document.text)
        if len(chunks) * (self.size - self.overlap) > self._tokens_a_file:
            raise invalid(f"The document has more than {self._tokens_a_file} tokens, the limit for a file.")
        headings = list(_headings(document.text)) if document.is_markdown else []
        at = [offset for offset, _ in headings]
        paths = ["", *(path for _, path in headings)]
        starts = [offset for offset, _ in document.pages]
        tables = list(_TABLE.finditer(document.text)) if document.is_markdown else []
        pieces = []
        for offset, cut in self._headed(document.text, list(self._bounded(chunks)), set(at)):
            above = bisect_left(at, offset)
            here = bisect_left(at, offset + _first_headings(cut))
            page = document.pages[place - 1][1] if (place := bisect_right(starts, offset)) else None
            outside = paths[above] if here == above else paths[above + 1].rpartition(" > ")[0]
            text = self._after(_columns(tables, offset), cut, self._room)
            embedded = self._after(f"{outside}\n" if outside else "", text, self._limit)
            pieces.append(Piece(text, page, paths[here], embedded))
        return pieces

    def _headed(self, whole: str, chunks: Sequence[tuple[int, str]], headings: set[int]) -> list[tuple[int, str]]:
        """The chunks without headings at their ends: these go before the text that they are of, where there is room."""
        kept: list[tuple[int, str]] = []
        for chunk in chunks:
            if kept and (last := _LAST_HEADINGS.search(kept[-1][1])) and kept[-1][0] + last.start() in headings:
                offset, before = kept[-1]
                start = min(chunk[0], offset + last.start())
                headed = whole[start : chunk[0] + len(chunk[1])]
                if self._count(headed) <= self._room:
                    kept[-1:] = [(offset, before[: last.start()].rstrip())] if last.start() else []
                    kept.append((start, headed))
                    continue
            kept.append(chunk)
        return kept

    def _bounded(self, chunks: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        for offset, text in chunks:
            if len(text) <= self._characters:
                yield offset, text
            else:
                yield from ((offset + start, part) for start, part in self._rough.chunk_indices(text))

    def _after(self, what: str, text: str, limit: int) -> str:
        """What the text is to be understood by, and the text; the text alone where that is too much."""
        whole = what + text
        return whole if what and self._count(whole) <= limit else text

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


def _columns(tables: Sequence[re.Match[str]], offset: int) -> str:
    """The first rows of the table amid which a chunk begins: what its columns are."""
    place = bisect_left(tables, offset, key=re.Match.start)
    return tables[place - 1][1] if place and offset < tables[place - 1].end() else ""


def _first_headings(text: str) -> int:
    """How long the headings are that it begins with."""
    found = _FIRST_HEADINGS.match(text)
    return found.end() if found else 0


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
