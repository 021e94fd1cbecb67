"""What is told of a step: points lost, whether that is too much, and speed with all steps taking turns."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tunesmith.compression.measured import Scale, Step, points_lost, spread, within
from tunesmith.types import Difference, Origin, Record, Scores

RECORDS = [Record(str(row), {"text": "x"}, row % 2, Origin("f", row)) for row in range(20)]


class ParityTask:
    """Answers with the target, but for some rows that it gets wrong."""

    def __init__(self, wrong=()):
        self.wrong, self.asked = wrong, []

    def score(self, records, answers, *, labels, main, seed):
        right = sum(record.target == value for record, value in zip(records, answers, strict=True)) / len(records)
        return Scores({"accuracy": right}, {"accuracy": (right - 0.1, right + 0.1)}, len(records), main)

    def decode(self, answers, *, labels):
        return [(value, 1.0, {}) for value in answers]

    def difference(self, records, first, second, *, metric, seed):
        value = sum((one == record.target) - (two == record.target)
                    for record, one, two in zip(records, first, second, strict=True)) / len(records)  # fmt: skip
        return Difference(metric, value, (value - 0.05, value + 0.05), len(records))


class StubBundle:
    def __init__(self, path, order, wrong=()):
        self.path, self.exported, self.labels = path, None, ()
        self.task, self.order, self.wrong = ParityTask(), order, wrong
        self.plan = SimpleNamespace(options={"metric": "accuracy"}, seed=0)
        self.model, self.ensemble = SimpleNamespace(), None
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"1" * 2**20)

    def answer(self, records):
        self.order.append((self.path.name, len(records)))
        return [1 - one.target if int(one.id) in self.wrong else one.target for one in records]


@pytest.fixture
def order():
    return []


def test_a_step_is_compared_with_the_run_on_the_same_rows(tmp_path, order):
    scale = Scale(StubBundle(tmp_path / "one", order, wrong=(0,)), RECORDS)
    step = scale.weigh(StubBundle(tmp_path / "two", order, wrong=(0, 3, 4)), "pruned")
    assert (scale.steps[0].name, scale.steps[0].scores.value, scale.steps[0].difference) == ("the run", 0.95, None)
    assert step.loss == pytest.approx(10)
    assert step.difference.value == pytest.approx(-0.1)
    assert step.file_mib == 1.0
    assert math.isnan(step.milliseconds)


def test_all_steps_take_turns(tmp_path, order):
    scale = Scale(StubBundle(tmp_path / "one", order), RECORDS)
    scale.weigh(StubBundle(tmp_path / "two", order), "other")
    order.clear()
    timed = scale.timed()
    alone = [name for name, rows in order if rows == 1]
    assert all({one, other} == {"one", "two"} for one, other in zip(alone[4::2], alone[5::2], strict=True))
    in_bulk = [name for name, rows in order if rows > 1]
    assert in_bulk == ["one", "two"] * 5
    assert all(step.milliseconds > 0 and step.rows_per_second > 0 for step in timed)


@pytest.mark.parametrize(
    ("metric", "before", "after", "lost"),
    [("accuracy", 0.9, 0.88, 2.0), ("accuracy", 0.9, 0.91, -1.0), ("perplexity", 10.0, 11.0, 10.0)],
)
def test_points_are_lost_where_the_metric_gets_worse(metric, before, after, lost):
    assert points_lost(metric, before, after) == pytest.approx(lost)


def step(loss, value=0.9):
    scores = Scores({"accuracy": value}, {"accuracy": (0.8, 1.0)}, 20, "accuracy")
    return Step("x", scores, None, loss, 1.0, 1)


def test_only_the_last_step_decides_and_it_has_to_be_a_number():
    assert within([step(0.0), step(5.0), step(1.0)], 1.0)
    assert not within([step(0.0), step(1.01)], 1.0)
    assert not within([step(math.nan, math.nan)], 100.0)


def test_rows_are_spread_evenly():
    assert [one.id for one in spread(RECORDS, 4)] == ["0", "5", "10", "15"]
    assert len(spread(RECORDS, 500)) == 20
