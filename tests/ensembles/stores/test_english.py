import pytest

from ensembles.stores.english import telling


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("What are the effects of heat?", "effects heat?"),
        ("“Who” isn’t that? What’s lift", "isn’t lift"),
        ("To be, or not to be", "To be, or not to be"),
        ("IT-Sicherheit und Recht", "IT-Sicherheit und Recht"),
        ("量子计算 是 什么", "量子计算 是 什么"),
        ("", ""),
    ],
)
def test_common_words_leave_a_query_that_has_others(query, left):
    assert telling(query) == left
