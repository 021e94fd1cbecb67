"""A run is scored on any labelled file, with the columns of its training unless told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

import toy_world
import tunesmith
from tunesmith.errors import DataProblem

ROWS = toy_world.rows(30, seed=11)


def test_the_test_file_gives_the_scores_of_the_training(toy_run, toy_data):
    found = tunesmith.evaluate(toy_run.path, toy_data["test"])
    after = toy_run.gain.after
    assert found.scores.values == pytest.approx(dict(after.values), abs=1e-6)
    assert found.scores.intervals.keys() == after.intervals.keys()
    assert (found.scores.n, found.scores.main) == (90, "accuracy")
    assert found.scores.details["abstain"]["threshold"] == toy_run.threshold
    assert found.scores.seconds > 0
    assert found.inspection.rows == 90
    assert found.bundle.id == toy_run.id


def test_a_label_of_the_run_is_never_a_typo(toy_run, tmp_path):
    """'metal' once beside many 'animal' rows is rare, not wrong."""
    rows = [row for row in toy_world.rows(60, seed=5) if row[1] == "animal"]
    rows.append(next(row for row in toy_world.rows(60, seed=6) if row[1] == "metal"))
    path = toy_world.write_csv(tmp_path / "rare.csv", rows)
    assert tunesmith.evaluate(toy_run, path).scores.n == len(rows)


def test_labels_that_the_run_does_not_know_are_told(toy_run, tmp_path):
    rows = [*toy_world.rows(30, seed=5), ("the1 a1 a2", "plant"), ("the1 a3 a2", "plant")]
    found = tunesmith.evaluate(toy_run, toy_world.write_csv(tmp_path / "plants.csv", rows))
    (problem,) = [problem for problem in found.inspection.problems if problem.kind == "unknown-label"]
    assert problem.what == "2 rows have a label that the run does not know ('plant'); they count as mistakes"
    assert found.scores.per_label["plant"]["recall"] == 0


def test_scores_on_the_training_file_come_with_a_warning(toy_run, toy_data):
    problems = tunesmith.evaluate(toy_run, toy_data["train"]).inspection.problems
    assert "own-data" in [problem.kind for problem in problems]


def test_columns_of_other_names_are_inferred_or_given(toy_run, tmp_path):
    inferred = toy_world.write_csv(tmp_path / "a.csv", ROWS, header=("review", "class"))
    assert tunesmith.evaluate(toy_run, inferred).inspection.roles == {"text": "review", "label": "class"}
    odd = tmp_path / "b.csv"
    odd.write_text("p,q,text\n" + "".join(f"{label},{text},zzz\n" for text, label in ROWS), encoding="utf-8")
    scores = tunesmith.evaluate(toy_run, odd, columns={"text": "q", "label": "p"}).scores
    assert scores.value == tunesmith.evaluate(toy_run, inferred).scores.value


def test_a_label_that_the_run_does_not_know_counts_as_a_mistake(toy_run, tmp_path):
    path = toy_world.write_csv(tmp_path / "a.csv", [*ROWS, ("a1 a2 a3", "plant"), ("a4 a5 a6", "plant")])
    scores = tunesmith.evaluate(toy_run, path).scores
    clean = tunesmith.evaluate(toy_run, toy_world.write_csv(tmp_path / "b.csv", ROWS)).scores
    assert scores.n == 32
    assert scores.value == pytest.approx(clean.value * 30 / 32)
    assert scores.per_label["plant"]["support"] == 2


def test_a_file_without_any_known_label_is_refused(toy_run, tmp_path):
    path = toy_world.write_csv(tmp_path / "a.csv", [(text, label.upper()) for text, label in ROWS])
    with pytest.raises(DataProblem) as caught:
        tunesmith.evaluate(toy_run, path)
    assert str(caught.value) == (
        "DataProblem: this file has none of the labels that the run answers with; it has 'ANIMAL', 'METAL', 'WEATHER'\n"
        f"  where: {path}\n"
        "  do:    choose the right column with --label or --columns; the run knows 'animal', 'metal', 'weather'"
    )


def test_too_many_unusable_rows_are_refused_unless_allowed(toy_run, tmp_path):
    path = toy_world.write_csv(tmp_path / "a.csv", [*ROWS, *[("", "metal")] * 10])
    with pytest.raises(DataProblem) as caught:
        tunesmith.evaluate(toy_run, path)
    assert caught.value.what.startswith("10 of 40 rows cannot be used; the first: ")
    assert caught.value.where == f"{path}:32"
    assert caught.value.do == (f"look at them with: tunesmith inspect {path}; or allow more with --max-rejected 0.5")
    assert tunesmith.evaluate(toy_run, path, max_rejected=0.5).scores.n == 30


def test_a_missing_file_or_column_is_a_data_problem(toy_run, tmp_path):
    with pytest.raises(DataProblem, match="does not exist"):
        tunesmith.evaluate(toy_run, tmp_path / "gone.csv")
    path = toy_world.write_csv(tmp_path / "a.csv", ROWS)
    with pytest.raises(DataProblem, match="column 'stars' is missing"):
        tunesmith.evaluate(toy_run, path, columns={"label": "stars"})


def test_an_open_run_and_its_folder_score_alike(toy_run, toy_data):
    one = tunesmith.evaluate(toy_run, toy_data["valid"]).scores
    other = tunesmith.evaluate(str(toy_run.path), Path(toy_data["valid"])).scores
    assert (one.values, one.intervals, one.details) == (other.values, other.intervals, other.details)
