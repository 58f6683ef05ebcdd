"""Reciprocal rank fusion: ranks count, scores do not."""

from __future__ import annotations

import pytest

from ensembles.library.fusion import Found, fuse
from ensembles.stores.store import Chunk, Hit


def hits(*names: str) -> list[Hit]:
    return [Hit(Chunk(name, name, 0, name), 100.0 - place) for place, name in enumerate(names)]


def names(passages) -> list[str]:
    return [passage.chunk.file_id for passage in passages]


def test_what_is_in_both_lists_comes_before_what_is_in_one():
    fused = fuse([Found("dense", 1, hits("a", "b", "c")), Found("words", 1, hits("c", "d"))], 10)
    assert names(fused) == ["c", "a", "b", "d"] or names(fused) == ["c", "a", "d", "b"]


def test_the_first_of_every_list_has_the_score_one_and_of_one_list_a_half():
    fused = fuse([Found("dense", 1, hits("a", "b")), Found("words", 1, hits("a", "c"))], 10)
    assert fused[0].score == pytest.approx(1)
    assert all(passage.score < 0.5 for passage in fused[1:])
    assert fused[0].scores == {"dense": 100.0, "words": 100.0, "fused": fused[0].score}


def test_weights_decide_between_the_lists():
    lists = [Found("dense", 1, hits("a")), Found("words", 3, hits("b"))]
    assert names(fuse(lists, 10)) == ["b", "a"]


def test_the_best_are_kept_and_those_under_the_threshold_are_not():
    lists = [Found("dense", 1, hits("a", "b", "c")), Found("words", 1, hits("a"))]
    assert names(fuse(lists, 2)) == ["a", "b"]
    assert names(fuse(lists, 10, 0.6)) == ["a"]


def test_no_lists_give_no_passages():
    assert fuse([], 10) == []
