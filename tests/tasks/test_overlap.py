"""Shared words: terms of English and Chinese texts, and cosines of their weights."""

from __future__ import annotations

import pytest

from tunesmith.tasks.overlap import terms, tfidf_cosines


def test_terms_are_words_and_chinese_characters_with_their_pairs():
    assert terms("The cat's 3 toys") == ["the", "cat", "s", "3", "toys"]
    assert terms("很好看 OK") == ["很", "好", "看", "很好", "好看", "ok"]
    assert terms("?! ") == []


def test_cosines_grow_with_what_is_shared():
    known = ["a red car", "a blue car", "a green tree", "the sky"]
    same, near, far = tfidf_cosines(known, ["a red car"] * 3, ["A red car!", "a red tree", "the sky"])
    assert same == pytest.approx(1.0)
    assert 0 < near < 1
    assert far == 0.0


def test_texts_without_words_are_alike_when_they_are_the_same():
    assert tfidf_cosines(["😀", "😡"], ["😀", "😀"], ["😀", "😡"]).tolist() == [1.0, 0.0]
    assert tfidf_cosines(["a"], [], []).shape == (0,)


def test_unknown_words_count_for_nothing():
    assert tfidf_cosines(["red car"], ["blue"], ["blue"]).tolist() == [0.0]
