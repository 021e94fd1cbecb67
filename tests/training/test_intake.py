"""Files become checked, split records; what cannot be learnt is left out aloud."""

from __future__ import annotations

import pytest

import toy_world
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.training.intake import take_in
from tunesmith.training.recipe import Recipe, make_recipe

ROWS = toy_world.rows(60, seed=1)
OTHERS = toy_world.rows(30, seed=2, is_test=True)


@pytest.fixture
def write(tmp_path):
    def write(name, rows, header=("text", "label")) -> str:
        return str(toy_world.write_csv(tmp_path / f"{name}.csv", rows, header))

    return write


def test_one_file_is_cut_in_three(write):
    found = take_in(Recipe(data=write("data", ROWS)))
    parts = [len(part) for part in (found.splits.train, found.splits.valid, found.splits.test)]
    assert sum(parts) == 60
    assert parts == [42, 6, 12]
    assert found.labels == toy_world.FAMILIES
    assert found.inferred[0] == "task is text-classification (by the columns text, label; override with --task)"
    assert found.inspection.rows == 60
    assert list(found.files) == ["data"]


def test_given_parts_are_used_as_they_are(write):
    recipe = Recipe(data=write("data", ROWS), valid=write("valid", OTHERS[:15]), test=write("test", OTHERS[15:]))
    found = take_in(recipe)
    assert [len(part) for part in (found.splits.train, found.splits.valid, found.splits.test)] == [60, 15, 15]
    assert list(found.files) == ["data", "valid", "test"]
    assert len({entry["sha256"] for entry in found.files.values()}) == 3


def test_the_other_files_may_name_their_columns_otherwise(write):
    recipe = Recipe(data=write("data", ROWS, ("review", "stars")), test=write("test", OTHERS, ("sentence", "label")))
    found = take_in(recipe)
    assert found.inspection.roles == {"text": "review", "label": "stars"}
    assert found.splits.test[0].fields["text"] == OTHERS[0][0]


def test_texts_of_the_test_leave_training(write):
    found = take_in(Recipe(data=write("data", ROWS), test=write("test", ROWS[:6])))
    kept = {record.fields["text"] for record in (*found.splits.train, *found.splits.valid)}
    assert not kept & {text for text, _ in ROWS[:6]}
    assert [row.kind for row in found.rejected] == ["leak"] * 6


def test_validation_rows_with_a_strange_label_are_left_out_aloud(write):
    recipe = Recipe(data=write("data", ROWS), valid=write("valid", [*OTHERS, ("a1 a2", "plant"), ("a3 a4", "plant")]))
    found = take_in(recipe)
    assert len(found.splits.valid) == 30
    assert {row.kind for row in found.rejected} == {"unknown-label"}
    assert found.rejected[0].reason == "label 'plant' does not occur in the training rows"
    assert "2 validation rows have a label that no training row has, and were left out" in whats(found)


def test_test_rows_with_a_strange_label_stay_and_are_told(write):
    found = take_in(Recipe(data=write("data", ROWS), test=write("test", [*OTHERS, ("a1 a2", "plant")])))
    assert len(found.splits.test) == 31
    assert "plant" not in found.labels
    assert "1 test rows have a label that no training row has; they count as mistakes" in whats(found)


def whats(found) -> list[str]:
    return [problem.what for problem in found.inspection.problems]


def test_a_label_whose_rows_all_stand_in_the_test_is_not_learnt(write):
    """Taking out leaks can take a label's last row: its validation rows must go as well."""
    metal = [row for row in ROWS if row[1] == "metal"]
    recipe = Recipe(data=write("data", ROWS), valid=write("valid", OTHERS), test=write("test", [*metal, *ROWS[:6]]))
    found = take_in(recipe)
    assert found.labels == ("animal", "weather")
    assert {record.target for record in found.splits.valid} == {"animal", "weather"}
    assert "10 validation rows have a label that no training row has, and were left out" in whats(found)


def test_one_label_left_is_refused(write):
    data = write("data", ROWS)
    rest = [row for row in ROWS if row[1] != "metal"]
    with pytest.raises(DataProblem) as caught:
        take_in(Recipe(data=data, valid=write("valid", OTHERS), test=write("test", rest)))
    assert str(caught.value) == (
        "DataProblem: all 20 rows that are left to train on have the same label, 'metal'\n"
        f"  where: {data}\n"
        "  do:    give rows of another label whose texts do not stand in the valid or test file"
    )


def test_nothing_left_to_train_on_is_refused(write):
    data = write("data", ROWS)
    with pytest.raises(DataProblem) as caught:
        take_in(Recipe(data=data, valid=write("valid", OTHERS), test=write("test", ROWS)))
    assert caught.value.what == "no rows are left for the train part"


def test_no_data_and_an_empty_part_are_refused(write, tmp_path):
    with pytest.raises(DataProblem) as caught:
        take_in(Recipe())
    assert str(caught.value) == (
        "DataProblem: no data was given\n  where: data\n  do:    tunesmith train FILE, or the key data in the recipe"
    )
    empty = write("test", [("", "metal")])
    with pytest.raises(DataProblem) as caught:
        take_in(Recipe(data=write("data", ROWS), test=empty))
    assert str(caught.value) == (
        "DataProblem: 1 of 1 rows of the test file cannot be used; the first: the text (column 'text') is empty\n"
        f"  where: {empty}:2\n"
        f"  do:    look at them with: tunesmith inspect {empty}; or allow more with --max-rejected"
    )


def test_an_unknown_task_is_refused(write):
    with pytest.raises(PlanProblem, match="no task 'divination'"):
        take_in(make_recipe({"data": write("data", ROWS), "task": "divination"}))


def test_the_same_seed_gives_the_same_parts(write):
    data = write("data", ROWS)
    prints = [take_in(Recipe(data=data, seed=seed)).splits.fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
