"""Average, forgetting and transfer on a matrix worked out by hand, and a lineage that survives being written."""

from __future__ import annotations

import json

import pytest

from tunesmith.bundle.updated import sentence
from tunesmith.types import from_json
from tunesmith.updating.matrix import Lineage, Step, with_step, write_lineage


def step(number: int) -> Step:
    return Step(f"id{number}", f"/runs/v{number}", "replay", "feedback", "", 100)


def lineage() -> Lineage:
    first = Lineage("accuracy", "minilm", (step(0),), ((0.9,),), (100,), (None,), (None,))
    second = with_step(first, step(1), [0.8, 0.7], test_rows=50, before=0.2, untrained=0.1)
    return with_step(second, step(2), [0.85, 0.6, 0.95], test_rows=40, before=0.5, untrained=0.3)


def test_the_measures_are_those_of_the_papers():
    found = lineage()
    assert found.average == pytest.approx((0.85 + 0.6 + 0.95) / 3)
    assert found.forgetting == pytest.approx((0.05, 0.1))
    assert found.mean_forgetting == pytest.approx(0.075)
    assert found.backward_transfer == pytest.approx(-0.075)
    assert found.forward_transfer == pytest.approx(((0.2 - 0.1) + (0.5 - 0.3)) / 2)


def test_where_lower_is_better_a_rise_is_what_was_forgotten():
    first = Lineage("bits_per_character", "minilm", (step(0),), ((2.5,),), (100,), (None,), (None,))
    found = with_step(first, step(1), [2.7, 3.0], test_rows=50, before=3.5, untrained=4.0)
    assert found.forgetting == pytest.approx((0.2,))
    assert found.backward_transfer == pytest.approx(-0.2)
    assert found.forward_transfer == pytest.approx(0.5)


def test_a_first_training_has_forgotten_nothing():
    first = Lineage("accuracy", "minilm", (step(0),), ((0.9,),), (100,), (None,), (None,))
    assert (first.mean_forgetting, first.forward_transfer, first.average) == (0.0, None, 0.9)


def test_a_lineage_is_read_as_it_was_written():
    content = json.loads(write_lineage(lineage()))
    assert content["summary"]["forgetting"] == pytest.approx(0.075)
    assert from_json(Lineage, content) == lineage()


def test_a_set_that_cannot_be_measured_again_counts_in_no_mean():
    found = with_step(lineage(), step(3), [None, 0.5, 0.9, 0.7], test_rows=30, before=0.4, untrained=0.2)
    assert found.forgetting == (None, pytest.approx(0.2), pytest.approx(0.05))
    assert found.mean_forgetting == pytest.approx(0.125)
    assert found.average == pytest.approx((0.5 + 0.9 + 0.7) / 3)
    assert from_json(Lineage, json.loads(write_lineage(found))) == found


def test_where_no_old_set_is_left_forgetting_is_not_known():
    found = with_step(lineage(), step(3), [None, None, None, 0.7], test_rows=30, before=0.4, untrained=0.2)
    assert (found.mean_forgetting, found.backward_transfer, found.average) == (None, None, 0.7)
    assert "not measured" in sentence(json.loads(write_lineage(found)))
