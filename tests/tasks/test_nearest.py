"""The most similar training question, in Chinese as in English."""

from __future__ import annotations

import pytest

from tunesmith.tasks.nearest import nearest_places


def test_the_most_similar_text_is_found_in_either_language():
    known = ["how do I open an account", "where is the next branch", "我想订一家酒店", "附近有什么景点"]
    asked = ["open accounts", "the nearest branch", "帮我订酒店", "有好玩的景点吗"]
    assert nearest_places(known, asked).tolist() == [0, 1, 2, 3]


def test_the_first_wins_among_equals_and_where_nothing_is_shared():
    assert nearest_places(["same", "same", "other"], ["same", "\u2603"]).tolist() == [0, 0]


def test_marks_alone_are_compared_too():
    assert nearest_places(["?", "!!"], ["!"]).tolist() == [1]


def test_nothing_to_be_near_to_is_refused():
    with pytest.raises(ValueError, match="nothing to be near to"):
        nearest_places([], ["a"])
