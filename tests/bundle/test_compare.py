"""Runs stand side by side on the same rows: who is better, on which label, on which rows they differ."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

import tunesmith
from tunesmith.bundle import compare as module
from tunesmith.errors import BundleProblem


@pytest.fixture(scope="module")
def poor_run(toy_options, tmp_path_factory):
    """One epoch of a linear probe: worse than the shared run."""
    out = tmp_path_factory.mktemp("runs") / "poor"
    options = {**toy_options, "method": "top-layers", "top_layers": 0, "epochs": 1, "learning_rate": 1e-5}
    return tunesmith.train(**options, out=str(out))


@pytest.fixture(scope="module")
def found(toy_run, poor_run, toy_data):
    return tunesmith.compare([toy_run.path, poor_run], toy_data["test"])


def test_each_run_has_its_scores(found, toy_run, poor_run, toy_data):
    assert list(found.scores) == ["toy", "poor"]
    assert (found.metric, found.n) == ("accuracy", 90)
    for name, run in (("toy", toy_run), ("poor", poor_run)):
        assert found.scores[name].values == tunesmith.evaluate(run, toy_data["test"]).scores.values


def test_the_difference_is_first_minus_second_and_clear(found):
    difference = found.differences["toy - poor"]
    assert difference.value == pytest.approx(found.scores["toy"].value - found.scores["poor"].value)
    assert difference.is_clear
    assert difference.value > 0.3


def test_winners_come_first(found):
    assert set(found.winners) == {"animal", "metal", "weather"}
    for label, by_run in found.winners.items():
        assert list(by_run.values()) == sorted(by_run.values(), reverse=True)
        assert by_run["toy"] == found.scores["toy"].per_label[label]["f1"]


def test_changed_rows_are_those_with_different_answers(found, toy_run, poor_run):
    assert found.changed_count >= len(found.changed) > 0
    assert len(found.changed) == min(found.changed_count, module.MOST_CHANGED)
    for row in found.changed:
        assert row["answers"]["toy"] != row["answers"]["poor"]
        assert row["right"] == [name for name, value in row["answers"].items() if value == row["expected"]]
        for run in (toy_run, poor_run):
            assert row["answers"][run.name] == next(iter(run.predict(row["text"])[0].alternatives))
        assert ".csv:" in row["row"]


def test_three_runs_are_compared_in_pairs_and_twins_by_their_paths(toy_run, poor_run, toy_data, tmp_path):
    twin = shutil.copytree(toy_run.path, tmp_path / "toy")
    found = tunesmith.compare([toy_run, poor_run, twin], toy_data["valid"])
    names = [str(toy_run.path), str(poor_run.path), str(twin)]
    assert list(found.scores) == names
    assert list(found.differences) == [
        f"{names[0]} - {names[1]}",
        f"{names[0]} - {names[2]}",
        f"{names[1]} - {names[2]}",
    ]
    assert found.differences[f"{names[0]} - {names[2]}"].value == 0


def test_one_run_alone_is_refused(toy_run, toy_data):
    with pytest.raises(BundleProblem) as caught:
        tunesmith.compare([toy_run], toy_data["test"])
    assert str(caught.value) == (
        "BundleProblem: one run alone cannot be compared\n  do:    tunesmith compare RUN RUN --data test.csv"
    )


def test_the_same_run_twice_is_refused(toy_run, toy_data):
    with pytest.raises(BundleProblem, match="the same run is given twice"):
        tunesmith.compare([toy_run, toy_run.path], toy_data["test"])


def test_runs_of_different_tasks_are_refused(toy_run, poor_run, toy_data, monkeypatch):
    from tunesmith import tasks
    from tunesmith.tasks.text_classification import TextClassification

    class Other(TextClassification):
        name = "other-task"

    monkeypatch.setitem(tasks.TASKS, "other-task", "test_compare_other")
    monkeypatch.setitem(__import__("sys").modules, "test_compare_other", type("Module", (), {"TASK": Other()}))
    other = dataclasses.replace(poor_run, facts={**poor_run.facts, "task": "other-task"})
    with pytest.raises(BundleProblem) as caught:
        tunesmith.compare([toy_run, other], toy_data["test"])
    assert str(caught.value) == (
        "BundleProblem: these runs are for different tasks: other-task, text-classification\n"
        "  do:    compare runs of one task"
    )
