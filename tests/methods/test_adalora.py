"""The budget of ranks: exact at the end, taken from where the loss feels least, and told by the paper's curve."""

from __future__ import annotations

import copy

import families
import pytest
import torch

from tunesmith.methods import adalora, companions
from tunesmith.models.anatomy import find_anatomy

STEPS = 20


@pytest.fixture
def model():
    model = families.make("bert")
    torch.manual_seed(0)
    return adalora.apply(model, find_anatomy(model), families.OPTIONS).eval()


def test_the_budget_is_met_exactly_and_not_evenly(model):
    layers = companions.matrices(model)
    assert adalora.ranks(model) == [6] * len(layers)
    families.train(model, "bert", adalora, STEPS)
    found = adalora.ranks(model)
    assert sum(found) == 4 * len(layers)
    assert len(set(found)) > 1
    values = [int(layer.lora_E["default"].count_nonzero()) for layer in layers]
    assert values == found


def test_ranks_fall_between_the_warm_up_and_the_settled_step(model):
    layers = companions.matrices(model)
    budgets = [adalora.budget_at(step, STEPS, layers) for step in range(1, STEPS + 1)]
    assert budgets[:3] == [6 * len(layers)] * 3
    settled = adalora.settled_after(STEPS)
    assert budgets[settled - 1 :] == [4 * len(layers)] * (STEPS - settled + 1)
    assert budgets == sorted(budgets, reverse=True)
    # a third of the way down the cubic curve: 48 + 24 * (2/3)^3
    assert adalora.budget_at(6, 20, layers) == int(48 + 24 * (1 - (6 - 3) / (12 - 3)) ** 3)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_budget_is_met_in_the_shortest_runs(model, steps):
    families.train(model, "bert", adalora, steps)
    assert sum(adalora.ranks(model)) == 4 * len(companions.matrices(model))


def test_triplets_that_the_loss_does_not_feel_go_first(model):
    layers = companions.matrices(model)
    for number, layer in enumerate(layers):
        for part in ("lora_A", "lora_B", "lora_E"):
            for name in ("importance", "uncertainty"):
                getattr(layer, f"{part}_{name}").fill_(1.0 if number % 2 else 0.1)
    adalora._cut(layers, 40)
    assert adalora.ranks(model)[1::2] == [6] * 6
    assert sum(adalora.ranks(model)[0::2]) == 4


def test_importance_is_the_papers_moving_average(model):
    layer = companions.matrices(model)[0]
    weight = layer.lora_A["default"]
    importance, uncertainty = torch.zeros_like(weight), torch.zeros_like(weight)
    for seed in range(3):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        adalora._note(layer)
        felt = (weight * weight.grad).abs().detach()
        importance = 0.85 * importance + 0.15 * felt
        uncertainty = 0.85 * uncertainty + 0.15 * (felt - importance).abs()
    assert torch.allclose(layer.lora_A_importance, importance)
    assert torch.allclose(layer.lora_A_uncertainty, uncertainty)


def test_the_penalty_has_the_gradient_of_the_papers_formula(model):
    layer = companions.matrices(model)[0]
    right, left = layer.lora_A["default"], layer.lora_B["default"]
    right.grad, left.grad = torch.zeros_like(right), torch.zeros_like(left)
    adalora.before_step(model)
    one, other = (tensor.detach().clone().requires_grad_(True) for tensor in (right, left))
    eye = torch.eye(len(right))
    penalty = (one @ one.T - eye).square().sum() + (other.T @ other - eye).square().sum()
    (0.1 * penalty).backward()
    assert torch.allclose(right.grad, one.grad, atol=1e-6)
    assert torch.allclose(left.grad, other.grad, atol=1e-6)


def test_what_the_allocation_remembers_is_no_part_of_a_saved_model(model):
    assert not [name for name in model.state_dict() if "importance" in name or "is_kept" in name]
    assert [name for name, _ in model.named_buffers() if name.endswith("is_kept")]


def test_a_layer_that_lost_all_its_ranks_answers_as_the_base_does(model):
    layer = copy.deepcopy(companions.matrices(model)[0])
    states = torch.randn(2, 16)
    with torch.no_grad():
        layer.lora_E["default"].zero_()
        assert torch.equal(layer(states), layer.get_base_layer()(states))
