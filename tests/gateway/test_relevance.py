import pytest

from gateway.relevance import estimate, ndcg, recall

FOUND = ["d3", "d7", "d1", "d9", "d2"]
GRADES = {"d1": 2, "d2": 1, "d4": 3, "d7": 1, "d9": 0}


# As trec_eval counts them (`ndcg_cut`, `recall`) for this order and these grades.
@pytest.mark.parametrize(("depth", "gain", "found"), [(1, 0.0, 0.0), (3, 0.3424985, 0.5), (5, 0.3885929, 0.75)])
def test_measures_are_trec_evals(depth, gain, found):
    assert ndcg(FOUND, GRADES, depth) == pytest.approx(gain, abs=1e-6)
    assert recall(FOUND, GRADES, depth) == pytest.approx(found)


def test_the_best_order_has_all_there_is_to_gain():
    best = ["d4", "d1", "d2", "d7", "d3"]
    assert ndcg(best, GRADES, 10) == recall(best, GRADES, 10) == 1.0


def test_what_no_one_wants_is_worth_nothing():
    assert ndcg(["a"], {"a": 0, "b": -1}, 10) == recall(["a"], {"a": 0, "b": -1}, 10) == 0.0


def test_an_interval_holds_the_mean_and_narrows_with_more_questions():
    few, many = estimate([0.0, 1.0] * 10), estimate([0.0, 1.0] * 250)
    for found in (few, many):
        assert found.mean == 0.5
        assert found.low < 0.5 < found.high
    # 1.96 standard errors of a coin: 0.22 and 0.044.
    assert few.high - few.low == pytest.approx(0.44, abs=0.06)
    assert many.high - many.low == pytest.approx(0.088, abs=0.012)
    assert estimate([0.0, 1.0] * 10) == few
    assert estimate([0.25] * 7) == (0.25, 0.25, 0.25)
