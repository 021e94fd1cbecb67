from __future__ import annotations

import random

import pytest

from tunesmith.monitoring.accuracy import Accuracy


def judged(count: int, chance: float, seed: int) -> list[bool]:
    generator = random.Random(seed)
    return [generator.random() < chance for _ in range(count)]


def test_a_drop_is_seen_and_is_over_when_accuracy_is_back():
    watch = Accuracy([(right, None) for right in judged(600, 0.9, 1)])
    assert watch.drop == 0
    for right in judged(300, 0.6, 2):
        watch.add(right)
    assert watch.drop > 0.15
    for right in judged(1500, 0.92, 3):
        watch.add(right)
    assert watch.drop == 0
    assert watch.changes >= 2


def test_getting_better_is_no_drop():
    watch = Accuracy([(right, None) for right in [*judged(500, 0.5, 1), *judged(500, 0.95, 2)]])
    assert watch.changes >= 1
    assert watch.drop == 0


def test_steady_accuracy_makes_no_change():
    changes = [Accuracy([(right, None) for right in judged(2000, 0.85, seed)]).changes for seed in range(10)]
    assert sum(changes) <= 1


def test_calibration_error_by_hand():
    pairs = [(True, 0.85)] * 30 + [(False, 0.85)] * 30 + [(True, 0.15)] * 10 + [(False, 0.15)] * 30
    values = Accuracy(pairs).values()
    # |0.85 - 0.5| * 60/100 + |0.15 - 0.25| * 40/100
    assert values["feedback_ece"] == pytest.approx(0.25, abs=1e-6)
    assert values["feedback_accuracy"] == pytest.approx(0.4)
    assert values["feedback_rows"] == 100
    assert "feedback_ece" not in Accuracy(pairs[:40]).values()
    assert "feedback_ece" not in Accuracy([(True, None)] * 100).values()


def test_judgements_survive_being_kept():
    watch = Accuracy([(right, 0.5 if right else None) for right in [*judged(600, 0.9, 1), *judged(200, 0.5, 2)]])
    again = Accuracy.of_arrays(watch.arrays(), count=watch.count + 5, changes=watch.changes)
    assert again.judgements() == watch.judgements()
    assert again.drop == watch.drop > 0
    assert (again.count, again.changes) == (805, watch.changes)
