"""Recipes say what a person wants; what is wrong in one is said in three parts, and no file can do harm."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.training.recipe import ALIASES, Recipe, canonical, keys, make_recipe, read_recipe, write_recipe


def problem_of(**values) -> PlanProblem:
    with pytest.raises(PlanProblem) as caught:
        make_recipe(values)
    return caught.value


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_names_of_transformers_are_understood(alias, name):
    value = 7 if name in {"epochs", "batch_size", "max_length", "patience"} else "x"
    assert getattr(make_recipe({alias: value}), name) == value
    assert make_recipe({alias.replace("_", "-"): value}) == make_recipe({name: value})


def test_dashes_are_as_good_as_underscores():
    assert make_recipe({"learning-rate": "2e-5"}).learning_rate == 2e-5


def test_an_unknown_key_lists_the_nearest_first():
    problem = problem_of(learning_rat=1)
    assert (problem.what, problem.where) == ("no recipe key 'learning_rat'", "recipe")
    assert problem.do.startswith("the keys are: learning_rate, ")
    assert all(item.name in problem.do for item in keys())


def test_a_key_under_two_names_is_refused():
    assert str(problem_of(epochs=1, num_train_epochs=2)) == (
        "PlanProblem: 'num_train_epochs' and another key both set epochs\n  where: recipe\n  do:    keep one of them"
    )


WRONG = [
    ("epochs", "many", "epochs is 'many'; it must be a number or auto"),
    ("epochs", 0, "epochs is 0; it must be at least 0.01 and at most 10000"),
    ("epochs", math.nan, "epochs is nan; it must be a number or auto"),
    ("epochs", math.inf, "epochs is inf; it must be a number or auto"),
    ("batch_size", 1.5, "batch_size is 1.5; it must be a whole number"),
    ("batch_size", "0", "batch_size is '0'; it must be at least 1"),
    ("batch_size", True, "batch_size is True; it must be a number"),
    ("patience", None, "patience is None; it must be a number"),
    ("patience", [3], "patience is [3]; it must be a number"),
    ("weight_decay", -0.1, "weight_decay is -0.1; it must be at least 0 and at most 1"),
    ("weight_decay", "auto", "weight_decay is 'auto'; it must be a number"),
    ("text", ["a", "b"], "text is ['a', 'b']; it must be one piece of text"),
    ("data", {"a": 1}, "data is {'a': 1}; it must be one piece of text"),
]


@pytest.mark.parametrize(("name", "value", "what"), WRONG, ids=lambda item: str(item)[:20])
def test_wrong_values_are_refused(name, value, what):
    problem = problem_of(**{name: value})
    assert (problem.what, problem.where) == (what, name)
    assert problem.do == f"--set {name}=VALUE, or in the recipe"


def test_values_come_in_their_own_type():
    recipe = make_recipe(
        {"epochs": "3", "batch_size": "8", "seed": 4.0, "text": 7, "learning_rate": "auto", "dropout": None}
    )
    assert (recipe.epochs, recipe.batch_size, recipe.seed, recipe.text) == (3.0, 8, 4, "7")
    assert isinstance(recipe.seed, int)
    assert (recipe.learning_rate, recipe.dropout) == ("auto", "auto")


@pytest.mark.parametrize("value", ["precision=2", "precision", "recall=0.9", "precision=x", "precision=0"])
def test_abstain_at_takes_a_precision(value):
    assert Recipe(abstain_at=" precision=0.9").precision_wanted == 0.9
    assert Recipe().precision_wanted is None
    with pytest.raises(PlanProblem) as caught:
        _ = Recipe(abstain_at=value).precision_wanted
    assert str(caught.value) == (
        f"PlanProblem: abstain_at is '{value}'\n  where: abstain_at\n  do:    write precision=0.95 (a share below 1)"
    )


def test_relative_paths_are_relative_to_the_recipe(tmp_path):
    path = written(tmp_path, "train_file: rows.csv\ntest: /data/test.csv\nvalid: ''\nout: runs/a\nmodel: minilm\n")
    found = read_recipe(path)
    assert found == {
        "data": str(tmp_path / "rows.csv"),
        "test": "/data/test.csv",
        "valid": "",
        "out": str(tmp_path / "runs/a"),
        "model": "minilm",
    }


def test_json_and_nested_abstention_are_read(tmp_path):
    path = written(tmp_path, "\ufeff" + json.dumps({"epochs": 2, "abstain_at": {"precision": 0.9}}))
    assert make_recipe(read_recipe(path)) == Recipe(epochs=2, abstain_at="precision=0.9")


@pytest.mark.parametrize("comments", [True, False])
def test_what_is_written_reads_back_equal(tmp_path, comments):
    recipe = Recipe(
        data=str(tmp_path / "数据: a.csv"), epochs=3, learning_rate=2e-5, label="y", abstain_at="precision=0.9"
    )
    text = write_recipe(recipe, comments=comments)
    assert make_recipe(read_recipe(written(tmp_path, text))) == recipe
    assert text.count("# ") == (len(keys()) if comments else 0)
    assert "数据" in text


def refused(path: Path) -> str:
    with pytest.raises(PlanProblem) as caught:
        read_recipe(path)
    assert caught.value.where == str(path)
    assert caught.value.do == "start from the commented one that `tunesmith init FOLDER` writes"
    return caught.value.what


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [BAIT]", "!!python/name:os.system", "!!python/object:tunesmith.Recipe {}"]
)
def test_python_objects_in_yaml_are_refused(tmp_path, tag):
    bait = tmp_path / "bait"
    path = written(tmp_path, "data: " + tag.replace("BAIT", str(bait)))
    assert refused(path).startswith("this recipe is not YAML: could not determine a constructor for the tag")
    assert not bait.exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGE_BOMB = "a: &a {k: 1, l: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", [BOMB + "data: *j\n", BOMB + "abstain_at: {precision: *j}\n", MERGE_BOMB])
def test_an_alias_bomb_is_harmless(tmp_path, text):
    assert refused(written(tmp_path, text)) == (
        "this recipe is not YAML: it repeats parts of itself by aliases (*name)"
    )


@pytest.mark.parametrize("text", ["[1, 2]", "words", "", "a: [", "\x00", "[" * 900_000, "? [a]\n: 1\n"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    assert refused(written(tmp_path, text)).startswith(("a recipe is a mapping", "this recipe is not YAML: "))


def test_binary_huge_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    assert refused(path) == "there is no such recipe"
    path.write_bytes(b"\xff\xfe\x81\x00")
    assert refused(path).startswith("this recipe is not YAML")
    path.write_bytes(b"a: " + b"x" * 1_000_000)
    assert refused(path) == "this file is too large for a recipe"
    assert refused(tmp_path) == "there is no such recipe"


def test_names_of_one_key_override_each_other_between_layers(tmp_path):
    path = written(tmp_path, "num_train_epochs: 3\nlearning_rate: 1e-3\n")
    values = {**read_recipe(path), **canonical({"epochs": 2, "learning-rate": "5e-4"})}
    recipe = make_recipe(values)
    assert (recipe.epochs, recipe.learning_rate) == (2, 5e-4)
