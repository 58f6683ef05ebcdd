from __future__ import annotations

from array import array

import numpy as np
import pytest

from backends.worker.loaders.late_interaction import LateInteraction
from tests.backends.worker.texts import config, folder

WIDTH = 48
ONE = 4 * 4 + 4 * WIDTH * 2 + 400
"""What a passage of four tokens counts for."""


def ids(*numbers):
    return array("i", numbers).tobytes()


QUERIES = [ids(1, 2, 3), ids(1, 2, 3)]
FIRST, SECOND, THIRD = ids(4, 5, 6, 7), ids(8, 9, 10, 11), ids(12, 13, 14, 15)


class Model:
    """Any vector a token, of no set length; what was run is remembered."""

    def __init__(self):
        self.ran = []

    def __call__(self, texts):
        self.ran.append(list(texts))
        return [np.stack([self.vector(number) for number in array("i", text)]) for text in texts]

    @staticmethod
    def vector(number):
        return np.random.default_rng(number).normal(size=WIDTH).astype(np.float32) * (1 + number % 5)


@pytest.fixture
def late(tmp_path):
    told = []

    def made(size_bytes):
        found = LateInteraction(config(folder(tmp_path)), size_bytes, told.append)
        return found, told

    return made


def counted(told):
    return {metric.family: metric.value for metric in told[-1].metrics}


def test_a_score_is_the_same_whether_its_passage_was_kept_or_not(late):
    keeping, forgetting = late(100 * ONE)[0], late(0)[0]
    model = Model()
    first = keeping.scores(QUERIES, [FIRST, SECOND], model)
    again = keeping.scores(QUERIES, [FIRST, SECOND], model)
    assert model.ran[1] == [QUERIES[0]]
    assert (first == again).all()
    assert (first == forgetting.scores(QUERIES, [FIRST, SECOND], model)).all()
    assert model.ran[2] == [QUERIES[0], FIRST, SECOND]


def test_half_the_bytes_a_number_move_no_score_measurably(late):
    def exact(query, passage):
        query, passage = Model()([query, passage])
        lengths = np.linalg.norm(query, axis=1)
        best = (query @ (passage / np.linalg.norm(passage, axis=1, keepdims=True)).T).max(axis=1) * lengths
        return best.sum() / (lengths**2).sum()

    passages = [ids(*range(start, start + 30)) for start in range(100)]
    found = late(0)[0].scores([QUERIES[0]] * 100, passages, Model())
    assert found[:, 0] == pytest.approx([exact(QUERIES[0], passage) for passage in passages], abs=1e-4)


def test_what_was_not_used_for_longest_goes_first(late):
    kept, _ = late(2 * ONE)
    model = Model()
    for passage in (FIRST, SECOND, FIRST, THIRD, FIRST, SECOND):
        kept.scores(QUERIES[:1], [passage], model)
    assert [texts[1:] for texts in model.ran] == [[FIRST], [SECOND], [], [THIRD], [], [SECOND]]


def test_a_passage_larger_than_the_cache_is_scored_and_not_kept(late):
    kept, _ = late(ONE - 1)
    model = Model()
    scores = [kept.scores(QUERIES[:1], [FIRST], model)[0, 0] for _ in range(2)]
    assert scores[0] == scores[1]
    assert model.ran == [[QUERIES[0], FIRST]] * 2


def test_a_text_that_a_batch_repeats_runs_once(late):
    model = Model()
    scores = late(0)[0].scores([*QUERIES, FIRST], [FIRST, FIRST, FIRST], model)
    assert model.ran == [[QUERIES[0], FIRST]]
    assert scores[2, 0] == pytest.approx(1, abs=1e-3)


def test_passages_that_were_kept_and_those_that_were_not_are_counted(late):
    kept, told = late(100 * ONE)
    kept.scores(QUERIES, [FIRST, SECOND], Model())
    kept.scores(QUERIES, [FIRST, THIRD], Model())
    names = ("tritium_passage_cache_hits_total", "tritium_passage_cache_misses_total")
    assert counted(told) == dict(zip(names, (1, 3), strict=True))
    assert told[-1].metrics[0].labels == {"model": "m", "version": "1"}


def test_nothing_is_counted_where_nothing_is_kept(late):
    kept, told = late(0)
    kept.scores(QUERIES, [FIRST, FIRST], Model())
    assert not told
