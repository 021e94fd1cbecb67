"""Which task and which rows each step has: even turns, every row, and the same wherever a run goes on."""

from __future__ import annotations

from collections import Counter

import pytest

from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training.multi_task.mixture import Mixture, Turns, shares


def test_shares_follow_the_root_of_the_rows():
    assert shares([100, 400], 0.5) == pytest.approx([1 / 3, 2 / 3])
    assert shares([100, 400], 1.0) == pytest.approx([0.2, 0.8])
    assert shares([100, 400], 0.0) == pytest.approx([0.5, 0.5])


def test_turns_are_even_at_every_moment():
    parts = [0.5, 0.3, 0.2]
    turns, taken = Turns(parts), Counter()
    for step in range(200):
        task, before = turns.at(step)
        assert before == taken[task]
        taken[task] += 1
        for place, part in enumerate(parts):
            assert abs(taken[place] - part * (step + 1)) < 1.5
    assert Turns(parts).at(137) == turns.at(137), "a run that goes on has the turns that it would have had"


def test_every_task_goes_through_all_of_its_rows():
    mixture = Mixture([[5] * 40, [7] * 10], 0.0)
    steps = [rows for epoch in range(4) for rows in mixture.epoch(10, seed=3, epoch=epoch)]
    each = steps_per_epoch(50, 10)
    assert len(steps) == 4 * each
    assert all(max(rows) < 40 or min(rows) >= 40 for rows in steps), "a step is of one task"
    seen = Counter(row for rows in steps for row in rows)
    assert {seen[row] for row in range(40, 50)} == {10}, "the small one, ten steps of all its ten rows"
    assert all(seen[row] >= 2 for row in range(40)), "ten steps of ten rows: twice and a half through forty"


def test_an_epoch_is_the_same_whichever_was_asked_for_before():
    lengths = [[3 + row % 5 for row in range(31)], [9] * 17]
    whole = [Mixture(lengths, 0.5).epoch(4, seed=1, epoch=epoch) for epoch in range(3)]
    fresh = Mixture(lengths, 0.5)
    assert fresh.epoch(4, seed=1, epoch=2) == whole[2]
    assert fresh.epoch(4, seed=1, epoch=0) == whole[0]
    assert fresh.epoch(4, seed=2, epoch=0) != whole[0]
