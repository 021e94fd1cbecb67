"""What learns at which step."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.methods import find_method
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import build_model
from tunesmith.training.unfreezing import Unfreezing, demand_levels, level_count, stage_steps_of


@pytest.fixture
def toy_model(toy_base):
    model = build_model(toy_base, "AutoModelForSequenceClassification", num_labels=3)
    return model, find_anatomy(model)


def held_names(model, unfreezing, step: int) -> set[str]:
    held = {id(parameter) for parameter in unfreezing.held_at(step)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in held}


def test_one_more_block_from_the_top_at_each_stage(toy_model):
    model, anatomy = toy_model
    unfreezing = Unfreezing(model, anatomy, stage_steps=10)
    names = {name for name, _ in model.named_parameters()}
    first = held_names(model, unfreezing, 0)
    assert names - first == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert held_names(model, unfreezing, 9) == first
    second = held_names(model, unfreezing, 10)
    assert all("layer.1." in name for name in first - second)
    third = held_names(model, unfreezing, 20)
    assert {name for name in names if "embeddings" in name} == third
    assert held_names(model, unfreezing, 30) == held_names(model, unfreezing, 1000) == set()


def test_what_a_method_froze_is_never_freed(toy_model):
    model, anatomy = toy_model
    model = find_method("top-layers").apply(model, anatomy, {"top_layers": 1})
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    unfreezing = Unfreezing(model, anatomy, stage_steps=10)
    assert level_count(model, anatomy) == 2
    with unfreezing.holding(0, is_alone=True):
        now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert now == {name for name in learning if "layer.1." not in name}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learning
    with unfreezing.holding(0, is_alone=False):
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learning


def test_gradients_of_what_is_held_are_dropped(toy_model):
    model, anatomy = toy_model
    unfreezing = Unfreezing(model, anatomy, stage_steps=10)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    unfreezing.drop(0)
    assert model.classifier.weight.grad is not None
    assert model.bert.embeddings.word_embeddings.weight.grad is None


def test_lengths_of_stages():
    assert stage_steps_of("epoch", levels=8, steps=100, epoch_steps=25) == 25
    assert stage_steps_of("even", levels=8, steps=160, epoch_steps=25) == 10
    assert stage_steps_of("even", levels=8, steps=4, epoch_steps=25) == 1


def test_nothing_to_unfreeze_is_refused(toy_model):
    model, anatomy = toy_model
    model = find_method("top-layers").apply(model, anatomy, {"top_layers": 0})
    with pytest.raises(PlanProblem) as caught:
        demand_levels("epoch", level_count(model, anatomy))
    assert str(caught.value) == (
        "PlanProblem: there is nothing to unfreeze one after the other: all that this method lets learn lies on one "
        "level\n  where: unfreeze\n"
        "  do:    leave unfreeze out, or choose a method that reaches the blocks, e.g. full or lora"
    )
    with pytest.raises(PlanProblem, match="unfreeze is 'slowly'"):
        demand_levels("slowly", 5)
