"""Sentences, and what counts as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.sentences import sentences

FIRST = "The pump is cleaned each week, by whoever has the watch."
SECOND = "Use warm water, e.g. that of the boiler, and a soft brush!"
THIRD = 'Is it "clean enough?" Ask the engineer of the watch before noon.'


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def test_prose_is_cut_at_the_ends_of_sentences_and_not_at_abbreviations() -> None:
    assert cut(f"{FIRST} {SECOND}\n{THIRD}") == [FIRST, SECOND, THIRD]


def test_a_line_that_was_wrapped_does_not_end_a_sentence() -> None:
    wrapped = FIRST.replace("week, ", "week,\n")
    assert cut(f"{wrapped}\n\n{SECOND}") == [wrapped, SECOND]


def test_chinese_needs_no_space_after_its_stops() -> None:
    first = "水泵每周由值班人员清洗一次，用锅炉的温水和软刷子，不得使用冷水或硬刷子，以免损坏密封件和轴承。"
    second = "清洗之后请值班工程师检查一遍，确认干净后才可以重新启动，并在日志中写下时间、姓名和所用的水量。"
    assert cut(first + second) == [first, second]


def test_rows_items_and_blocks_of_code_stand_alone() -> None:
    rows = [
        "| Slewing ring | lithium grease LX-40 | each month |",
        "| Gearbox of the hoist | mineral oil VG 220 | each year |",
    ]
    items = [
        "- Stop the crane when the wind is above 14 m/s.",
        "2. Let the load down by the hand wheel behind the cabin.",
    ]
    code = "```sh\ncrane stop --now\n\ncrane lower --by-hand. Then wait\n```"
    assert cut("\n".join([*rows, "", *items, code])) == [*rows, *items, code]


def test_a_heading_belongs_to_what_follows_it() -> None:
    heading = "## How the pump is cleaned, and by whom it is checked afterwards"
    assert cut(f"{heading}\n\n{FIRST} {SECOND}") == [f"{heading}\n\n{FIRST}", SECOND]


@pytest.mark.parametrize("text", ["", " \n\n ", "\n"])
def test_nothing_has_no_sentences(text: str) -> None:
    assert sentences(text) == []


def test_what_is_short_is_not_lost() -> None:
    assert cut("Yes. No.") == ["Yes. No."]
    assert cut(f"{FIRST} Yes. No.\n") == [f"{FIRST} Yes. No."]
    assert cut("## Only a heading") == ["## Only a heading"]


@given(st.text(st.sampled_from("aB .!?\n|-#`。1"), max_size=300))
def test_sentences_are_in_order_apart_and_hold_all_that_is_no_space(text: str) -> None:
    found = sentences(text)
    last = 0
    for start, end in found:
        assert last <= start < end
        assert not text[last:start].strip()
        assert text[start:end] == text[start:end].strip()
        last = end
    assert not text[last:].strip()
