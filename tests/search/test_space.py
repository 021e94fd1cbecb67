"""What may vary: as written by people, as declared by methods, and as it reaches the recipe."""

from __future__ import annotations

import optuna
import pytest

from tunesmith.errors import PlanProblem
from tunesmith.methods import METHODS, find_method, space_of
from tunesmith.methods.space import COMMON, GENERAL, Choices, Range
from tunesmith.search.space import make_space, read_space, tidy
from tunesmith.training.recipe import Recipe, keys

USUAL = {
    "learning_rate": 1e-3,
    "batch_size": 16,
    "epochs": 10.0,
    "weight_decay": 0.01,
    "top_layers": 2,
    "dropout": "auto",
}
SIZES = {"blocks": 2, "hidden": 64}


def space_for(*items: str, method: str = "top-layers", usual: dict | None = None):
    return make_space(read_space(items), {method: space_of(find_method(method))}, {method: usual or USUAL}, sizes=SIZES)


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_space_names_keys_that_it_has(name):
    """A key that no recipe has, or that the method does not listen to, would make trials that differ in nothing."""
    known = {item.name for item in keys()}
    method = find_method(name)
    own = set(space_of(method)) - set(COMMON)
    assert own <= set(method.OPTIONS) & known
    assert set(GENERAL) <= known


def test_ranges_lie_around_what_the_plan_would_take():
    entries = space_for().entries["top-layers"]
    rate = entries["learning_rate"].distribution
    assert (rate.low, rate.high, rate.log) == (3e-4, 3e-3, True)
    assert entries["batch_size"].distribution.choices == (8, 16, 32)
    epochs = entries["epochs"].distribution
    assert (epochs.low, epochs.high) == (3, 10)
    layers = entries["top_layers"].distribution
    assert (layers.low, layers.high) == (0, 2), "the base model has two blocks"


def test_the_usual_settings_are_part_of_the_space():
    space = space_for()
    assert space.usual("top-layers") == {"learning_rate": 1e-3, "batch_size": 16, "epochs": 10, "top_layers": 2}
    assert space.settings(space.usual("top-layers"))["method"] == "top-layers"


def test_people_may_say_what_varies_and_how_far():
    entries = space_for("learning_rate=1e-5..1e-3", "weight_decay=0..0.1", "batch_size=4,64").entries
    found = {name: entry.distribution for name, entry in entries["top-layers"].items()}
    assert set(found) == {"learning_rate", "weight_decay", "batch_size"}
    assert (found["learning_rate"].low, found["learning_rate"].high, found["learning_rate"].log) == (1e-5, 1e-3, True)
    assert found["weight_decay"].log is False
    assert found["batch_size"].choices == (4, 64)


def test_a_general_key_needs_no_range():
    (entry,) = space_for("weight-decay").entries["top-layers"].values()
    assert (entry.distribution.low, entry.distribution.high) == (
        GENERAL["weight_decay"].low,
        GENERAL["weight_decay"].high,
    )
    assert entry.usual == 0.01


def test_what_differs_between_methods_is_named_after_them():
    declared = {"full": COMMON, "lora": {**COMMON, "lora_rank": Choices((4, 8))}}
    usual = {"full": USUAL, "lora": {**USUAL, "learning_rate": 1e-2, "lora_rank": 8}}
    space = make_space({}, declared, usual, sizes=SIZES)
    assert set(space.entries["full"]) == {"full.learning_rate", "batch_size", "epochs"}
    assert set(space.entries["lora"]) == {"lora.learning_rate", "batch_size", "epochs", "lora_rank"}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.draw(study.ask()) for _ in range(12)]
    assert {settings["method"] for settings in drawn} == {"full", "lora"}
    for settings in drawn:
        assert ("lora_rank" in settings) == (settings["method"] == "lora")
        Recipe(**settings)  # every drawn setting is one that a recipe takes


def test_drawn_numbers_have_few_digits():
    assert tidy(0.000123456789) == 0.0001235
    assert tidy(7) == 7


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (("data=a..b",), "'data' is the same in all trials of a sweep"),
        (("seed",), "'seed' is the same in all trials of a sweep"),
        (("learnign_rate",), "no recipe key 'learnign_rate'"),
        (("learning_rate=1e-3..1e-5",), "'learning_rate=1e-3..1e-5' is no range"),
        (("batch_size=8",), "'batch_size=8' leaves nothing to choose"),
        (("batch_size=eight,nine",), "batch_size is 'eight'; it must be a number or auto"),
        (("patience",), "'patience' is the same in all trials of a sweep"),
    ],
)
def test_what_cannot_vary_is_refused_with_what_to_do(items, message):
    with pytest.raises(PlanProblem) as caught:
        space_for(*items)
    assert caught.value.what.startswith(message)
    assert caught.value.do


def test_a_key_without_a_declared_range_asks_for_one():
    with pytest.raises(PlanProblem) as caught:
        space_for("learning_rate", "stride", usual={**USUAL, "stride": 128})
    assert caught.value.what == "no range is declared for 'stride'"
    assert caught.value.do.startswith("write stride=LOW..HIGH or stride=A,B; declared are: ")


def test_a_key_that_no_method_listens_to_is_refused():
    with pytest.raises(PlanProblem, match="'lora_rank' changes nothing here: no plan of top-layers has it"):
        space_for("learning_rate", "lora_rank=4,8")


def test_a_method_that_learns_nothing_has_nothing_to_vary():
    with pytest.raises(PlanProblem, match="method 'zero-shot' has nothing that this sweep could vary"):
        make_space({}, {"zero-shot": {}}, {"zero-shot": USUAL}, sizes=SIZES)


def test_whole_numbers_stay_whole_and_above_zero():
    space = make_space(
        {}, {"full": {"epochs": Range(0.1, 1.0, is_whole=True, is_factor=True)}}, {"full": {"epochs": 2.0}}, sizes=SIZES
    )
    distribution = space.entries["full"]["epochs"].distribution
    assert (distribution.low, distribution.high) == (1, 2)
