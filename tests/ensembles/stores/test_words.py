"""Texts come apart into words of any language, the same ones in a query as in the text."""

from __future__ import annotations

import pytest

from ensembles.stores.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("The fox, the FOX!", ["the", "fox", "the", "fox"]),
        ("Élève straße", ["eleve", "strasse"]),
        ("X-42 snake_case 3.5", ["x", "42", "snake", "case", "3", "5"]),
        ("Мышь живёт", ["мышь", "живет"]),
        ("量子计算", ["量", "子", "计", "算", "量子", "子计", "计算"]),
        ("GPU的量", ["gpu", "的", "量", "的量"]),
        ("한국", ["한", "국", "한국"]),
        ("!? \x00 😀", []),
    ],
)
def test_words_are_in_lower_case_and_without_accents_or_pairs_of_letters(text, words):
    assert list(words_of(text)) == words


def test_endless_words_are_cut():
    assert list(words_of("a" * 1000)) == ["a" * 100]
