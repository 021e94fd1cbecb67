"""Rows that a run labels itself: the gate, the balance of labels, and that nothing of the test rows gets in."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from scipy.stats import binomtest

import toy_world
from tunesmith.tasks import find_task
from tunesmith.training.intake import Intake, take_in
from tunesmith.training.pseudo_labels import (
    NOTHING,
    _Surest,
    as_target,
    find_gate,
    label_rows,
    why_not,
    wilson,
    with_pseudo,
)
from tunesmith.training.recipe import Recipe
from tunesmith.types import Entity, Origin, Record, Span

TASK = find_task("text-classification")


def gate_of(confidences, is_right, **options):
    records = [
        Record(str(row), {"text": "x"}, "a" if right else "b", Origin("x", row)) for row, right in enumerate(is_right)
    ]
    answered = [("a", confidence, {}) for confidence in confidences]
    return find_gate(TASK, records, answered, Recipe(**options))


def test_the_gate_is_where_enough_validation_answers_are_right():
    gate = gate_of([0.9, 0.8, 0.7, 0.6, 0.5], [True, True, True, False, False], pseudo_precision=0.7)
    assert (gate.threshold, gate.n, gate.right, gate.coverage) == (0.6, 4, 3, 0.8)
    assert gate.precision == 0.75
    assert gate.interval == pytest.approx(wilson(3, 4))


def test_no_gate_where_no_confidence_is_enough():
    gate = gate_of([0.9, 0.8], [False, False])
    assert (gate.threshold, gate.n, gate.precision, gate.interval) == (None, 0, None, None)


def test_a_gate_that_is_given_is_taken_and_measured_all_the_same():
    gate = gate_of([0.9, 0.8, 0.7], [True, False, False], pseudo_confidence=0.75)
    assert (gate.threshold, gate.wanted, gate.n, gate.right) == (0.75, None, 2, 1)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 7), (10, 10), (90, 100)])
def test_the_interval_is_wilsons(right, n):
    found = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((found.low, found.high), abs=1e-6)


def taken(rows, most=100):
    sure = _Surest(most)
    for row, (label, confidence) in enumerate(rows):
        sure.take(label, confidence, row, label)
    return sure


def test_the_surest_rows_stay_and_no_label_grows_more_than_asked():
    sure = taken([("a", 0.9), ("a", 0.99), ("a", 0.95), ("b", 0.8)])
    chosen, added = sure.balanced({"a": 2, "b": 2}, most=1)
    assert added == {"a": 2, "b": 1}
    assert sorted(chosen) == [1, 2, 3]
    assert chosen[1] == (0.99, "a")


def test_no_label_far_outgrows_the_one_in_the_middle():
    sure = taken([("a", 0.9)] * 50 + [("b", 0.9)] * 4 + [("c", 0.9)] * 2)
    _, added = sure.balanced({"a": 2, "b": 2, "c": 2}, most=100)
    assert added == {"a": 8, "b": 4, "c": 2}  # b grows by 2: no label by more than 4 times its rows
    _, added = taken([("a", 0.9)] * 50).balanced({"a": 3, "b": 3, "c": 3}, most=100)
    assert added == {"a": 3}  # the label in the middle grows by nothing: as many as there are, at most


def test_memory_is_bounded_and_of_equals_the_earlier_stay():
    sure = taken([("a", 0.9)] * 1000, most=5)
    chosen, _ = sure.balanced({"a": 5}, most=1)
    assert sorted(chosen) == [0, 1, 2, 3, 4]
    assert sure.passed == 1000


def test_answers_become_targets_of_the_task():
    assert as_target("spam") == "spam"
    assert as_target(["b", "a"]) == ("a", "b")
    assert as_target(()) == ()
    assert as_target((Entity("Ada", "person", 0, 3, 0.9),)) == (Span(0, 3, "person"),)
    assert NOTHING == ""


def test_tasks_without_labels_or_confidence_decline():
    assert why_not(TASK) is None
    assert why_not(find_task("token-classification")) is None
    assert "no labels" in why_not(find_task("summarisation"))
    assert "no labels" in why_not(find_task("text-similarity"))


@pytest.fixture(scope="module")
def intake(toy_options) -> Intake:
    return take_in(Recipe(**{name: toy_options[name] for name in ("data", "valid", "test")}))


@pytest.fixture(scope="module")
def pool(toy_data, tmp_path_factory):
    """New rows among rows of train, valid and test, written a little differently."""
    path = tmp_path_factory.mktemp("pool") / "pool.csv"
    new = [text for text, _ in toy_world.rows(30, seed=31)]
    theirs = [toy_world.rows(count, seed=seed, is_test=is_test)[7][0] for count, seed, is_test in
              ((120, 1, False), (45, 2, False), (90, 3, True))]  # fmt: skip
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [*((text,) for text in new), *((f"  {text.upper()} ",) for text in theirs), (new[0],), ("",)]
        csv.writer(file).writerows([("text",), *rows])
    return path


def test_rows_of_the_test_part_are_reported_and_never_learnt(toy_run, intake, pool):
    found = label_rows(toy_run, str(pool), intake.splits, Recipe(pseudo_confidence=0.0))
    assert found.counts == {
        "rows": 35,
        "used": 30,
        "repeated": 1,
        "unreadable": 1,
        "in test": 1,
        "in valid": 1,
        "in train": 1,
        "unsure": 0,
        "too many": 0,
    }
    held = {
        record.fields["text"].strip().lower() for part in ("valid", "test") for record in getattr(intake.splits, part)
    }
    assert not {record.fields["text"].strip().lower() for record in found.records} & held
    assert len(found.records) == 30 == sum(found.added.values())
    assert [record.target for record in found.records] == [
        p.value for p in toy_run.predict([r.fields["text"] for r in found.records])
    ]
    assert all(record.id.startswith("pseudo-") for record in found.records)
    assert len(found.sample) == 10


def test_rows_below_the_gate_are_counted(toy_run, intake, pool):
    answers = toy_run.predict([text for text, _ in toy_world.rows(30, seed=31)])
    middle = float(np.median([one.confidence for one in answers]))
    found = label_rows(toy_run, str(pool), intake.splits, Recipe(pseudo_confidence=middle))
    passing = sum(one.confidence >= middle for one in answers)
    assert found.counts["unsure"] == 30 - passing
    assert len(found.records) + found.counts["too many"] == passing
    assert found.confidence >= middle
    nothing = label_rows(toy_run, str(pool), intake.splits, Recipe(pseudo_confidence=1.0))
    assert (len(nothing.records), nothing.confidence, nothing.counts["unsure"]) == (0, None, 30)


def test_only_the_training_part_grows(toy_run, intake, pool):
    pseudo = label_rows(toy_run, str(pool), intake.splits, Recipe(pseudo_confidence=0.0, pseudo_most=0.05))
    assert 0 < len(pseudo.records) < 10
    found = with_pseudo(intake, pseudo)
    assert found.splits.valid is intake.splits.valid
    assert found.splits.test is intake.splits.test
    assert list(found.splits.train) == [*intake.splits.train, *pseudo.records]
    assert found.splits.fingerprint != intake.splits.fingerprint
    assert math.isclose(sum(pseudo.added.values()), len(pseudo.records))
