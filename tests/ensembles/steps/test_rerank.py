from array import array

import pytest

from ensembles.step import Passage
from ensembles.steps.rerank import follow, mix
from ensembles.stores.store import Chunk


def packed(*numbers):
    return array("f", numbers).tobytes()


def passages(*vectors, scores=None):
    scores = scores or [1 - 0.1 * place for place in range(len(vectors))]
    return [
        Passage(Chunk(str(place), "f", 0, "", vector=vector), score)
        for place, (vector, score) in enumerate(zip(vectors, scores, strict=True))
    ]


def order(found):
    scores = [passage.score for passage in found]
    assert scores == sorted(scores, reverse=True)
    return [passage.chunk.file_id for passage in found]


def test_the_models_scores_and_those_before_them_count_alike_whatever_their_ranges():
    found = mix(passages(b"", b"", b"", scores=[0.031, 0.030, 0.029]), [0.1, 7.0, 5.0], 0.5)
    assert order(found) == ["1", "0", "2"]
    assert [passage.score for passage in found] == pytest.approx([0.75, 0.5, 4.9 / 6.9 / 2])
    assert [passage.scores["rerank"] for passage in found] == [7.0, 0.1, 5.0]


@pytest.mark.parametrize(("weight", "first"), [(0, "0"), (1, "1")])
def test_a_weight_at_its_end_leaves_one_order(weight, first):
    assert order(mix(passages(b"", b""), [0.2, 0.9], weight))[0] == first


def test_what_is_like_the_best_passages_comes_before_what_is_only_like_the_question():
    question, best = packed(1, 0, 0), packed(0.6, 0.8, 0)
    like_both, like_the_question = packed(0.6, 0.7, 0), packed(0.9, 0, 0.5)
    found = follow(passages(best, like_the_question, like_both), question, 1, 0.9)
    assert order(found) == ["2", "0", "1"]
    assert found[0].scores["feedback"] > found[1].scores["feedback"] > found[2].scores["feedback"]
    without_it = follow(passages(like_the_question, like_both), question, 1, 0.9)
    assert order(without_it) == ["0", "1"]


def test_the_length_of_a_vector_says_nothing():
    near, far, question = (0.8, 0.6), (0, 1), packed(1, 0)
    plain = follow(passages(packed(*near), packed(*far)), question, 2, 0.5)
    long = follow(passages(packed(*near), packed(0, 50)), packed(9, 0), 2, 0.5)
    assert [passage.score for passage in plain] == pytest.approx([passage.score for passage in long])


@pytest.mark.parametrize(
    ("question", "other"), [(b"", packed(1, 0)), (packed(1, 0), b""), (packed(1, 0), packed(1, 0, 0))]
)
def test_without_vectors_of_one_size_the_order_stands(question, other):
    given = passages(packed(1, 0), other)
    assert follow(given, question, 1, 1.0) == given
    assert "feedback" not in given[0].scores


def test_vectors_of_zeros_are_like_nothing():
    assert order(follow(passages(packed(0, 0), packed(0, 0)), packed(0, 0), 1, 0.5)) == ["0", "1"]
