"""Tests of `tunesmith.pretraining.options`."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.pretraining.options import (
    CHOICES,
    PretrainRecipe,
    keys,
    make_pretrain_recipe,
    read_pretrain_recipe,
    write_pretrain_recipe,
)


def test_values_from_the_command_line_get_their_own_types():
    recipe = make_pretrain_recipe({"corpus": ["a.txt", "b.txt"], "steps": "20", "mask-share": "0.2", "epochs": "auto"})
    assert (recipe.corpus, recipe.steps, recipe.mask_share) == (("a.txt", "b.txt"), 20, 0.2)


def test_every_key_says_what_it_is_for():
    assert all(item.metadata["help"] for item in keys())
    assert set(CHOICES) <= {item.name for item in keys()}


def test_an_unknown_key_lists_the_valid_ones_nearest_first():
    with pytest.raises(PlanProblem) as caught:
        make_pretrain_recipe({"maskshare": 0.1})
    assert caught.value.what == "no key 'maskshare'"
    assert caught.value.do.startswith("the keys are: mask_share")


@pytest.mark.parametrize(
    ("name", "value", "do"),
    [
        ("objective", "rtd", "use one of: clm, mlm, seq2seq"),
        ("size", "smal", "use one of: small, mini, tiny"),
        ("masking", "words", "use one of: "),
    ],
)
def test_an_unknown_choice_lists_the_valid_ones(name, value, do):
    with pytest.raises(PlanProblem) as caught:
        make_pretrain_recipe({name: value})
    assert caught.value.what == f"{name} is '{value}'"
    assert caught.value.do.startswith(do)


def test_two_budgets_are_refused():
    with pytest.raises(PlanProblem, match="steps and seconds are both budgets"):
        make_pretrain_recipe({"steps": 10, "seconds": 60})


def test_a_model_brings_its_own_tokenizer_and_weights():
    with pytest.raises(PlanProblem) as caught:
        make_pretrain_recipe({"model": "minilm", "vocab_size": 1000})
    assert caught.value.what == "vocab_size cannot be chosen when going on with a model: 'minilm' has its own"


def test_a_written_recipe_is_read_back_with_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(write_pretrain_recipe(PretrainRecipe(corpus=("a.txt",), steps=5)))
    read = read_pretrain_recipe(tmp_path / "recipe.yaml")
    assert read == PretrainRecipe(corpus=(str(tmp_path / "a.txt"),), steps=5)


def test_a_damaged_recipe_is_an_error_of_three_parts(tmp_path):
    (tmp_path / "recipe.yaml").write_text("- a\n- b\n")
    with pytest.raises(PlanProblem, match="not a mapping of keys"):
        read_pretrain_recipe(tmp_path / "recipe.yaml")
