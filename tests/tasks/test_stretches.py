"""Streams in stretches: every learnt token once, with context before it."""

from __future__ import annotations

import pytest

from tunesmith.tasks.stretches import IGNORED, Stream, cut, spread
from tunesmith.types import Origin, Record

RECORD = Record("1", {}, "x", Origin("rows.jsonl", 1))


def stretches(length: int, *, max_length: int, stride: int, prefix: tuple[int, ...] = (1000,), learnt=None):
    ids = tuple(range(length))
    stream = Stream(prefix, ids, tuple(learnt or [True] * length))
    return cut(stream, prefix, RECORD, max_length=max_length, stride=stride)


@pytest.mark.parametrize(("length", "max_length", "stride"), [(5, 16, 4), (15, 16, 4), (16, 16, 4), (100, 16, 4)])
@pytest.mark.parametrize("prefix", [(1000,), (1000, 1001, 1002)])
def test_every_token_is_learnt_once_and_in_order(length, max_length, stride, prefix):
    found = stretches(length, max_length=max_length, stride=stride, prefix=prefix)
    assert [label for one in found for label in one.labels if label != IGNORED] == list(range(length))
    assert all(one.length <= max_length and len(one.labels) == len(one.completion) for one in found)
    assert all(one.completion[: len(prefix)] == prefix for one in found)
    assert all(one.labels[place] in {IGNORED, one.completion[place]} for one in found for place in range(one.length))
    assert len({id(one.record) for one in found}) == 1


def test_later_stretches_see_what_stood_before():
    first, second, *_ = stretches(40, max_length=16, stride=4)
    assert second.completion[1:5] == first.completion[-4:]
    assert second.labels[:5] == (IGNORED,) * 5


def test_a_stride_beyond_half_a_stretch_still_goes_forward():
    found = stretches(60, max_length=16, stride=100)
    assert [label for one in found for label in one.labels if label != IGNORED] == list(range(60))


def test_stretches_without_anything_to_learn_are_left_out():
    found = stretches(60, max_length=16, stride=0, learnt=[place >= 50 for place in range(60)])
    assert len(found) == 1
    assert [label for one in found for label in one.labels if label != IGNORED] == list(range(50, 60))
    assert len(stretches(60, max_length=16, stride=0, learnt=[False] * 60)) == 1, "no record is without an example"


def test_a_long_prefix_leaves_room_for_the_text():
    found = stretches(20, max_length=16, stride=4, prefix=tuple(range(1000, 1040)))
    assert [label for one in found for label in one.labels if label != IGNORED] == list(range(20))
    assert all(one.completion[:8] == (1000, *range(1033, 1040)) for one in found), "its start and its end are kept"


def test_places_are_spread_evenly():
    assert spread(5, 10) == [0, 1, 2, 3, 4]
    assert spread(100, 3) == [0, 50, 99]
    assert spread(0, 3) == []


def test_no_token_is_learnt_without_one_before_it():
    found = stretches(40, max_length=16, stride=0, prefix=(), learnt=[place > 0 for place in range(40)])
    assert all(one.labels[0] == IGNORED for one in found)
    assert [label for one in found for label in one.labels if label != IGNORED] == list(range(1, 40))
