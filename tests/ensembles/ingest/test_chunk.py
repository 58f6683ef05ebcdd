"""Chunks: within the embedder's tokens, with their page and headings."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from ensembles.ingest.chunk import Cutter, sizes
from ensembles.ingest.document import Document
from ensembles.ingest.faults import DocumentError
from ensembles.ingest.messages import Reader
from ensembles.records.rows import Chunking

PAGES = "# Rotor\n\n" + "It turns. " * 30 + "\n\n## Blades\n\n" + "They are long. " * 30


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A word is a token, a mark stands at each end of a text, and texts are saved to be cut off at 16 tokens."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3}
    made = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    made.enable_truncation(16)
    made.enable_padding(pad_id=3, length=16)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


def tokens(path: str, text: str) -> int:
    counting = Tokenizer.from_file(path)
    counting.no_truncation()
    counting.no_padding()
    return len(counting.encode(text).ids)


def test_no_chunk_has_more_tokens_than_the_embedder_reads(tokenizer):
    pieces = Cutter(Reader(tokenizer, max_length=32), Chunking(4096, 2048, is_auto=False)).cut(Document(PAGES, True))
    assert max(tokens(tokenizer, piece.text) for piece in pieces) == 32
    assert max(tokens(tokenizer, piece.embedded) for piece in pieces) == 32


def test_a_prompt_takes_its_part_of_what_the_embedder_reads(tokenizer):
    reader = Reader(tokenizer, max_length=32, prompt="search the document ")
    pieces = Cutter(reader, Chunking(4096, 0, is_auto=False)).cut(Document(PAGES, True))
    assert max(tokens(tokenizer, reader.prompt + piece.embedded) for piece in pieces) <= 32


def test_chunks_are_as_small_as_asked_for(tokenizer):
    pieces = Cutter(Reader(tokenizer, max_length=512), Chunking(100, 0, is_auto=False)).cut(Document("word " * 1000))
    assert [tokens(tokenizer, piece.text) - 2 for piece in pieces] == [100] * 10


def test_chunks_overlap_as_asked_for(tokenizer):
    text = " ".join(map(str, range(300)))
    pieces = Cutter(Reader(tokenizer, max_length=512), Chunking(100, 50, is_auto=False)).cut(Document(text))
    assert [piece.text.split()[0] for piece in pieces] == ["0", "50", "100", "150", "200"]


@pytest.mark.parametrize(
    ("chunking", "limit", "expected"),
    [
        (Chunking(), 254, (222, 27)),
        (Chunking(), 8000, (800, 100)),
        (Chunking(800, 400, is_auto=False), 8000, (800, 400)),
        (Chunking(800, 400, is_auto=False), 254, (254, 127)),
        (Chunking(100, 0, is_auto=False), 254, (100, 0)),
        (Chunking(), 1, (1, 0)),
    ],
)
def test_sizes_are_those_asked_for_within_what_the_embedder_reads(chunking, limit, expected):
    assert sizes(chunking, limit) == expected


def test_each_chunk_knows_the_headings_above_it(tokenizer):
    pieces = Cutter(Reader(tokenizer, max_length=40), Chunking()).cut(Document(PAGES, True))
    assert [piece.heading for piece in pieces][:2] == ["Rotor", "Rotor"]
    assert pieces[-1].heading == "Rotor > Blades"
    assert pieces[-1].embedded == f"Rotor > Blades\n{pieces[-1].text}"
    assert pieces[0].embedded == pieces[0].text  # it begins with its heading


def test_a_heading_stands_before_the_text_that_it_is_of(tokenizer):
    text = "# Wind\n\n" + "It blows. " * 10 + "\n\n## Rotor\n\n" + "turns " * 33 + "\n\n## Blades\n\nThey bend."
    pieces = Cutter(Reader(tokenizer, max_length=42), Chunking()).cut(Document(text, True))
    assert [(piece.heading, piece.text[:9]) for piece in pieces] == [
        ("Wind", "# Wind\n\nI"),
        ("Wind > Rotor", "## Rotor\n"),
        ("Wind > Blades", "## Blades"),
    ]
    assert max(tokens(tokenizer, piece.embedded) for piece in pieces) <= 42


def test_a_heading_that_has_no_room_there_stays_where_it_is(tokenizer):
    text = "# Rotor\n\n" + "turns " * 100
    pieces = Cutter(Reader(tokenizer, max_length=512), Chunking(100, 0, is_auto=False)).cut(Document(text, True))
    assert [piece.text for piece in pieces] == ["# Rotor", "turns " * 99 + "turns"]


def test_a_part_of_a_table_has_its_columns(tokenizer):
    rows = "".join(f"| part {number} | {number} |\n" for number in range(20))
    text = f"# Weights\n\n| name | tons |\n| --- | --- |\n{rows}\nThat is all."
    first, *others = Cutter(Reader(tokenizer, max_length=60), Chunking()).cut(Document(text, True))
    assert first.text.startswith("# Weights\n\n| name | tons |\n")
    assert len(others) > 1
    assert all(piece.text.startswith("| name | tons |\n| --- | --- |\n| part") for piece in others)
    assert max(tokens(tokenizer, piece.text) for piece in others) <= 60


def test_what_looks_like_a_heading_in_code_is_none(tokenizer):
    text = "# Top\n\n```sh\n# a comment\n```\n\n" + "word " * 60
    pieces = Cutter(Reader(tokenizer, max_length=40), Chunking()).cut(Document(text, True))
    assert {piece.heading for piece in pieces} == {"Top"}


def test_plain_text_has_no_headings(tokenizer):
    (piece,) = Cutter(Reader(tokenizer, max_length=40), Chunking()).cut(Document("# 12\n\nwords"))
    assert (piece.heading, piece.page) == ("", None)


def test_each_chunk_knows_the_page_that_it_begins_on(tokenizer):
    first, second = "one " * 50, "two " * 50
    document = Document(f"{first}\n\n{second}", pages=[(0, 1), (len(first) + 2, 2)])
    pieces = Cutter(Reader(tokenizer, max_length=40), Chunking(100, 0, is_auto=False)).cut(document)
    assert [piece.page for piece in pieces if "two" not in piece.text] == [1, 1]
    assert pieces[-1].page == 2


def test_a_word_without_end_is_no_chunk_without_end(tokenizer):
    pieces = Cutter(Reader(tokenizer, max_length=40), Chunking()).cut(Document("x" * 5000))
    assert max(len(piece.text) for piece in pieces) <= 38 * 16
    assert "".join(piece.text for piece in pieces) == "x" * 5000


def test_lengths_are_guessed_where_the_tokenizer_is_not_here():
    pieces = Cutter(Reader(max_length=100), Chunking(is_auto=False)).cut(Document("word " * 1000, is_markdown=True))
    assert 250 < max(len(piece.text) for piece in pieces) <= 300


def test_a_file_has_so_many_tokens_at_the_most(tokenizer):
    with pytest.raises(DocumentError, match="more than 900 tokens"):
        Cutter(Reader(tokenizer, max_length=40), Chunking(), tokens_a_file=900).cut(Document("word " * 1000))
