"""Passages cut down to the sentences that a reranker finds best."""

from __future__ import annotations

from typing import Any

import pytest

from backends.errors import InvalidRequest, UpstreamProtocolError
from ensembles.step import Passage, Turn
from ensembles.steps.excerpt import chosen, joined, load
from tests.ensembles.house import RERANKER, House, chunk, question, reranker

FIRST = "Apples are red and round, and they grow on trees here."
SECOND = "Pears are green and long, and they grow on walls there."
THIRD = "Plums are blue and small, and they grow on their own now."


def turn(*texts: str) -> Turn:
    passages = [Passage(chunk(n, text), 0.5) for n, text in enumerate(texts)]
    return Turn(question(), [], "what is red?", [], passages=passages)


async def excerpts(house: House, asked: Turn, **options: Any) -> list[str]:
    await load({"model": RERANKER, **options}, house).run(asked)  # type: ignore[arg-type]
    return [passage.text for passage in asked.passages]


async def test_the_best_sentences_of_all_passages_stay_in_their_order() -> None:
    house = House(reranker(0.1, 0.9, 0.5, 0.2, 0.4))
    whole = f"{FIRST} {SECOND} {THIRD}"
    told = await excerpts(house, turn(whole, f"{FIRST} {SECOND}"), characters=90)
    assert told == [f"{SECOND} {THIRD}", SECOND]
    assert house.models[RERANKER].asked[0][1] == {
        "model": RERANKER,
        "query": "what is red?",
        "documents": [FIRST, SECOND, THIRD, FIRST, SECOND],
    }


async def test_passages_that_have_room_stay_whole_and_nobody_is_asked() -> None:
    house = House(reranker())
    asked = turn(f"{FIRST} {SECOND}", THIRD)
    assert await excerpts(house, asked, characters=100) == [f"{FIRST} {SECOND}", THIRD]
    assert [passage.excerpt for passage in asked.passages] == ["", ""]
    assert house.models[RERANKER].asked == []


async def test_a_passage_without_an_excerpt_is_its_chunk() -> None:
    asked = turn(FIRST)
    assert asked.passages[0].text == FIRST
    asked.passages[0].excerpt = "red"
    assert asked.passages[0].text == "red"


async def test_what_has_no_sentences_stays_as_it_is() -> None:
    house = House(reranker(0.1, 0.9))
    assert await excerpts(house, turn("", f"{FIRST} {SECOND}"), characters=30) == ["", SECOND]


async def test_a_sentence_without_a_score_is_an_error_of_the_reranker() -> None:
    house = House(reranker(0.5))
    with pytest.raises(UpstreamProtocolError, match=RERANKER):
        await excerpts(house, turn(f"{FIRST} {SECOND}"), characters=60)


def test_each_text_keeps_its_best_sentence_whatever_the_room() -> None:
    spans = [[(0, 50), (51, 100)], [(0, 70)], []]
    assert chosen(spans, [[0.1, 0.2], [0.0], []], 10) == [{1}, {0}, set()]


def test_a_sentence_that_is_too_long_leaves_its_room_to_others() -> None:
    spans = [[(0, 50), (50, 150), (150, 180)]]
    assert chosen(spans, [[0.9, 0.8, 0.1]], 100) == [{0, 2}]


def test_a_mark_stands_for_what_is_left_out_between_two_sentences() -> None:
    text = f"{FIRST} {SECOND}\n\n{THIRD}"
    ends = [len(FIRST), len(FIRST) + 1 + len(SECOND)]
    spans = [(0, ends[0]), (ends[0] + 1, ends[1]), (ends[1] + 2, len(text))]
    assert joined(text, spans) == text
    assert joined(text, [spans[0], spans[2]]) == f"{FIRST}\n…\n{THIRD}"
    assert joined(text, spans[1:]) == f"{SECOND}\n\n{THIRD}"
    assert joined(text, []) == ""


@pytest.mark.parametrize("options", [{}, {"model": RERANKER, "characters": 0}, {"model": RERANKER, "words": 3}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="excerpt"):
        load(options, House())  # type: ignore[arg-type]
