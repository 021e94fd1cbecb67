"""What may be asked of augmentation, and how it is written."""

from __future__ import annotations

import json

import pytest

from tunesmith.data.augment.entries import KINDS, read_entries, with_paths, write_entries
from tunesmith.errors import PlanProblem
from tunesmith.training.recipe import make_recipe, read_recipe, read_sets, write_recipe

SAME = [
    "delete:share=0.2,synonyms:copies=2:table=words.csv",
    [{"delete": {"share": 0.2}}, {"synonyms": {"copies": 2, "table": "words.csv"}}],
    {"delete": {"share": "0.2"}, "synonyms": {"copies": 2.0, "table": "words.csv"}},
    json.dumps([{"delete": {"share": 0.2}}, {"synonyms": {"copies": 2, "table": "words.csv"}}]),
    ["delete:share=0.2", {"synonyms": {"copies": 2, "table": "words.csv"}}],
]


@pytest.mark.parametrize("given", SAME, ids=range(len(SAME)))
def test_every_way_of_writing_means_the_same(given):
    entries = read_entries(given)
    assert entries == read_entries(SAME[0])
    assert [entry.kind for entry in entries] == ["delete", "synonyms"]
    assert entries[0].settings == {"share": 0.2, "copies": 1, "rows": 1.0}
    assert write_entries(entries) == "delete:share=0.2,synonyms:copies=2:table=words.csv"


@pytest.mark.parametrize("nothing", [None, "", "none", [], {}], ids=str)
def test_nothing_is_no_augmentation(nothing):
    assert read_entries(nothing) == ()
    assert write_entries(read_entries(nothing)) == ""


def test_names_may_have_dashes_and_come_alone():
    assert [each.kind for each in read_entries(["swap", "mixup"])] == ["swap", "mixup"]
    assert read_entries("back-translate:there=a:back=b")[0].kind == "back_translate"
    assert read_entries([{"swap": None}]) == read_entries("swap")


@pytest.mark.parametrize("path", ["a,b.csv", "c:/words.csv", "a=b.csv"])
def test_paths_with_marks_of_the_short_form_are_written_as_json(path):
    entries = read_entries([{"synonyms": {"table": path}}])
    assert read_entries(write_entries(entries)) == entries
    assert write_entries(entries).startswith("[")


def test_only_paths_are_changed_as_paths():
    asked = "synonyms:table=w.csv,back_translate:there=a:back=b,swap,mixup:at=embeddings"
    assert with_paths(asked, lambda path: f"/x/{path}") == (
        "synonyms:table=/x/w.csv,back_translate:there=/x/a:back=/x/b,swap,mixup:at=embeddings"
    )


WRONG = {
    "sinonyms": "no augmentation 'sinonyms'",
    "delete:shar=0.1": "augmentation delete has no setting 'shar'",
    "delete:share": "'share' in augment has no value",
    "delete:share=0": "delete:share is '0'; it must be at least 0.001 and at most 1",
    "delete:share=nan": "delete:share is 'nan'; it must be at least 0.001 and at most 1",
    "delete:copies=1.5": "delete:copies is '1.5'; it must be a whole number",
    "swap:copies=many": "swap:copies is 'many'; it must be a number",
    "mixup:at=top": "mixup:at is 'top'; it must be one of pooled, embeddings",
    "back_translate:there=a": "back_translate needs two finished translation runs: one there, one back",
    "[delete": "augment is no JSON: Expecting value: line 1 column 2 (char 1)",
}


@pytest.mark.parametrize("asked", WRONG)
def test_what_cannot_be_is_refused(asked):
    with pytest.raises(PlanProblem) as caught:
        make_recipe({"augment": asked})
    assert (caught.value.what, caught.value.where) == (WRONG[asked], "augment")
    assert caught.value.do


@pytest.mark.parametrize("value", [3, [3], [["delete"]], {"delete": 0.1}, True], ids=str)
def test_other_things_than_entries_are_refused(value):
    with pytest.raises(PlanProblem, match="which is no kind of augmentation with its settings"):
        read_entries(value)


def test_unknown_kinds_list_the_nearest_first():
    with pytest.raises(PlanProblem) as caught:
        read_entries("swapp")
    assert caught.value.do.startswith("use one of: swap, ")
    assert all(kind in caught.value.do for kind in KINDS)


def test_a_recipe_file_holds_a_list_and_its_paths_are_relative_to_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: d.csv\naugment:\n- delete\n- synonyms: {table: w.csv}\n", encoding="utf-8")
    recipe = make_recipe(read_recipe(path))
    assert recipe.augment == f"delete,synonyms:table={tmp_path / 'w.csv'}"
    path.write_text(write_recipe(recipe), encoding="utf-8")
    assert make_recipe(read_recipe(path)) == recipe


def test_the_command_line_takes_the_short_form():
    assert read_sets(["augment=delete:share=0.2,swap"]) == {"augment": "delete:share=0.2,swap"}
