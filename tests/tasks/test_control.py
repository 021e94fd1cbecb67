"""Whether samples are of the kind that was asked for, by a classifier that never saw the row it judges."""

from __future__ import annotations

import pytest

from tunesmith.tasks.control import control_accuracy, wilson

SPORT = [f"the team won match {number} with a goal" for number in range(20)]
FOOD = [f"boil the rice {number} with some salt" for number in range(20)]
ASKED = [{"topic": "sport"}] * 20 + [{"topic": "food"}] * 20


def test_samples_of_the_right_kind_are_told_from_those_of_the_wrong_kind():
    samples = {0: "a goal by the team", 1: "rice with salt", 20: "salt in the rice", 21: "boil rice"}
    judged, verdicts = control_accuracy([*SPORT, *FOOD], ASKED, samples, seed=0)
    assert verdicts == {0: True, 1: False, 20: True, 21: True}
    found = judged["topic"]
    assert (found["accuracy"], found["n"], found["values"]) == (0.75, 4, 2)
    assert found["on_real_texts"] == 1.0
    assert found["largest_share"] == 0.5
    assert found["interval"][0] < 0.75 < found["interval"][1]


def test_values_with_few_texts_and_empty_samples_are_not_judged():
    asked = [{"topic": "sport"}] * 20 + [{"topic": f"rare {number}"} for number in range(20)]
    assert control_accuracy([*SPORT, *FOOD], asked, {0: "a goal"}, seed=0) == ({}, {})
    assert control_accuracy([*SPORT, *FOOD], ASKED, {0: " "}, seed=0) == ({}, {})
    assert control_accuracy(SPORT, [{}] * 20, {0: "a goal"}, seed=0) == ({}, {})


def test_the_interval_is_wilsons():
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 5)[0] == pytest.approx(0.0)
    assert wilson(5, 5)[1] == pytest.approx(1.0)
