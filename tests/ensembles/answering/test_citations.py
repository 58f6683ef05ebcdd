from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.answering.citations import Citation, Markers, by_words
from ensembles.step import Passage
from tests.ensembles.house import chunk


def read(*pieces: str, count: int = 3) -> tuple[str, list[Citation], int]:
    markers = Markers(count)
    text, found = "", []
    for piece in pieces:
        said, citations = markers.feed(piece)
        text += said
        found += citations
    said, citations = markers.end()
    return text + said, found + citations, markers.unknown


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("red [1].", [("[1]", 1)]),
        ("red [2][3]", [("[2]", 2), ("[3]", 3)]),
        ("red [1, 3] and [2,1]", [("[1, 3]", 1), ("[1, 3]", 3), ("[2,1]", 2), ("[2,1]", 1)]),
        ("[1]", [("[1]", 1)]),
        ("größe 漢字[2]", [("[2]", 2)]),
        ("no [a] [] [1.2] [ 1]", []),
    ],
)
def test_markers_stay_and_are_cited_where_they_stand(text: str, cited: list[tuple[str, int]]) -> None:
    written, found, unknown = read(text)
    assert (written, unknown) == (text, 0)
    assert [(written[each.start : each.end], each.number) for each in found] == cited


@pytest.mark.parametrize(
    ("text", "written", "unknown"),
    [
        ("red [9].", "red.", 1),
        ("red [0] [1]", "red [1]", 1),
        ("red [1, 9] is", "red [1] is", 1),
        ("red [7, 8]", "red", 2),
        ("[4]red", "red", 1),
    ],
)
def test_numbers_of_no_passage_are_taken_out_and_counted(text: str, written: str, unknown: int) -> None:
    said, found, counted = read(text)
    assert (said, counted) == (written, unknown)
    assert all(said[each.start : each.end] == "[1]" for each in found)


@pytest.mark.parametrize("text", ["`a[9]` is", "```\nx[1] = y[9]\n```\nso", "``a`b[9]``", "a `b[9]\n"])
def test_brackets_in_code_are_no_markers(text: str) -> None:
    assert read(text) == (text, [], 0)


def test_markers_after_code_are_found() -> None:
    assert read("`a[1]` [2]")[1] == [Citation(7, 10, 2)]
    assert read("an odd ` here\nand [2]")[1] == [Citation(18, 21, 2)]


TEXTS = st.lists(
    st.sampled_from(
        ["[", "]", "1", "2", "9", "12", ", ", ",", " ", "`", "```", "\n", "red", "é", "漢", "[1]", " [9]", "[1, 9]"]
    )
).map("".join)


@given(TEXTS)
def test_a_text_split_at_every_character_reads_as_the_whole_one(text: str) -> None:
    assert read(*text) == read(text)


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_a_text_split_anywhere_reads_as_the_whole_one(text: str, cuts: list[int]) -> None:
    borders = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    written, found, _ = read(*pieces)
    assert (written, found) == read(text)[:2]
    assert all(str(each.number) in written[each.start : each.end] for each in found)


def test_what_cannot_be_a_marker_is_not_held_back() -> None:
    markers = Markers(3)
    assert markers.feed("red [1")[0] == "red"
    assert markers.feed("st]")[0] == " [1st]"
    assert markers.feed("plain")[0] == "plain"


def test_a_row_of_digits_without_end_is_held_only_so_long() -> None:
    markers = Markers(3)
    assert markers.feed("[" + "1," * 60)[0] != ""


def passages(*texts: str) -> list[Passage]:
    return [Passage(chunk(number, text), 0.5, number) for number, text in enumerate(texts, 1)]


def test_a_sentence_is_cited_by_the_passage_that_has_most_of_its_words() -> None:
    known = passages("Apples are red and round.", "Pears are green and long.")
    text = "Pears are green, and long. Nobody knows about bananas here."
    (found,) = by_words(text, known, 0.6)
    assert (text[found.start : found.end], found.number, found.by_words) == ("Pears are green, and long.", 2, True)


def test_a_passage_outside_of_the_prompt_cites_nothing() -> None:
    (known,) = passages("Apples are red and round.")
    known.number = 0
    assert list(by_words("Apples are red and round.", [known], 0.5)) == []


def test_words_that_are_too_few_are_not_cited() -> None:
    assert list(by_words("Are apples. Are!", passages("Apples are red."), 0.5)) == []
