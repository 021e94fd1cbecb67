"""Every optimiser against arithmetic by hand, and which parameter gets which rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import build_model
from tunesmith.training.depth import parameter_depths
from tunesmith.training.lion import Lion
from tunesmith.training.optimizers import (
    OPTIMIZERS,
    demand_optimizer,
    make_optimizer,
    parameter_groups,
    rate_factor,
)
from tunesmith.types import Plan


def plan_of(**options) -> Plan:
    wanted = {"learning_rate": 0.1, "weight_decay": 0.02, "head_learning_rate_factor": 10.0, "momentum": 0.9, **options}
    return Plan("t", "full", "b", "", {}, (), wanted, 0, "cpu", 1, "no", 100, 0.0, 0.0)


class Small(nn.Module):
    """A matrix, a bias and a head, as far as an optimiser can tell."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base_model = nn.Linear(3, 2).double()
        self.head = nn.Linear(2, 2).double()


def steps_of(name: str, steps: int = 5):
    """Give (gradient, weights after) of each step on the matrix of the body, and what the matrix was."""
    model = Small()
    optimizer = make_optimizer(model, plan_of(optimizer=name))
    start = model.base_model.weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        found.append((model.base_model.weight.grad.clone(), model.base_model.weight.detach().clone()))
    return start, found


def test_adamw_by_hand():
    weights, found = steps_of("adamw")
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    for step, (gradient, after) in enumerate(found, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weights = weights * (1 - 0.1 * 0.02)
        weights = weights - 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        assert torch.allclose(after, weights, atol=1e-6)


def test_sgd_by_hand():
    weights, found = steps_of("sgd")
    velocity = torch.zeros_like(weights)
    for gradient, after in found:
        velocity = 0.9 * velocity + gradient + 0.02 * weights
        weights = weights - 0.1 * velocity
        assert torch.allclose(after, weights, atol=1e-6)


def test_lion_by_hand():
    weights, found = steps_of("lion")
    average = torch.zeros_like(weights)
    for gradient, after in found:
        direction = (0.9 * average + 0.1 * gradient).sign()
        weights = weights - 0.1 * (direction + 0.02 * weights)
        average = 0.99 * average + 0.01 * gradient
        assert torch.allclose(after, weights, atol=1e-6)


def test_adafactor_by_hand():
    weights, found = steps_of("adafactor")
    row, column = torch.zeros(2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for step, (gradient, after) in enumerate(found, 1):
        memory = 1 - step**-0.8
        row = memory * row + (1 - memory) * (gradient**2).mean(1)
        column = memory * column + (1 - memory) * (gradient**2).mean(0)
        move = gradient / (row[:, None] * column[None] / row.mean()).sqrt()
        move = move / max(1.0, float(move.pow(2).mean().sqrt()))
        weights = weights - 0.1 * 0.02 * weights - 0.1 * move
        assert torch.allclose(after, weights, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_finds_the_minimum_of_a_bowl(name):
    torch.manual_seed(0)
    target = torch.randn(4, 3)
    weights = nn.Parameter(torch.zeros(4, 3))
    holder = nn.Module()
    holder.base_model, holder.weights = nn.Module(), weights
    optimizer = make_optimizer(holder, plan_of(optimizer=name, weight_decay=0.0))
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        ((weights - target) ** 2).sum().backward()
        optimizer.step()
    assert torch.allclose(weights, target, atol=0.02)


def test_lion_leaves_parameters_without_a_gradient_alone_and_runs_a_closure():
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lion([one, other], lr=0.5, weight_decay=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (one * torch.tensor([1.0, -1.0])).sum()
        loss.backward()
        return loss.detach()

    assert float(optimizer.step(closure)) == 0.0
    assert one.tolist() == [0.25, 1.25]
    assert other.tolist() == [1.0, 1.0]
    assert other not in optimizer.state


@pytest.fixture(scope="module")
def toy_model(toy_base):
    model = build_model(toy_base, "AutoModelForSequenceClassification", num_labels=3)
    return model, find_anatomy(model)


def test_depths_go_from_the_embeddings_to_the_head(toy_model):
    model, anatomy = toy_model
    depths, top = parameter_depths(model, anatomy)
    named = {name: depths[parameter] for name, parameter in model.named_parameters()}
    assert top == 3
    assert {depth for name, depth in named.items() if ".embeddings." in name} == {0}
    assert {depth for name, depth in named.items() if ".layer.0." in name} == {1}
    assert {depth for name, depth in named.items() if ".layer.1." in name} == {2}
    assert {depth for name, depth in named.items() if "pooler" in name or "classifier" in name} == {3}
    assert len(named) == len(depths)


def test_layer_decay_lowers_the_rate_level_by_level(toy_model):
    model, anatomy = toy_model
    groups = parameter_groups(model, plan_of(layer_decay=0.5), anatomy)
    factors = {id(parameter): group["factor"] for group in groups for parameter in group["params"]}
    found = {name: factors[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["bert.embeddings.word_embeddings.weight"] == 0.125
    assert found["bert.encoder.layer.0.attention.self.query.weight"] == 0.25
    assert found["bert.encoder.layer.1.attention.self.query.weight"] == 0.5
    assert found["bert.pooler.dense.weight"] == 1.0
    assert found["classifier.weight"] == 10.0


def test_without_layer_decay_there_are_as_many_groups_as_ever(toy_model):
    groups = parameter_groups(toy_model[0], plan_of())
    assert {(group["factor"], group["weight_decay"]) for group in groups} == {
        (1.0, 0.02), (1.0, 0.0), (10.0, 0.02), (10.0, 0.0)
    }  # fmt: skip


def test_an_encoder_decoders_decoder_lies_above_its_encoder():
    import transformers

    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config)
    depths, top = parameter_depths(model, find_anatomy(model, has_fresh_head=False))
    named = {name: depths[parameter] for name, parameter in model.named_parameters()}
    assert top == 5
    assert named["shared.weight"] == 0
    assert named["encoder.block.1.layer.1.DenseReluDense.wi.weight"] == 2
    assert named["encoder.final_layer_norm.weight"] == 2
    assert named["decoder.block.0.layer.0.SelfAttention.q.weight"] == 3
    assert named["decoder.final_layer_norm.weight"] == 5


def test_default_rates_make_steps_of_like_length():
    assert rate_factor("adamw", numbers=10_000, momentum=0.9) == 1.0
    assert rate_factor("sgd", numbers=10_000, momentum=0.9) == pytest.approx(5.0)
    assert rate_factor("sgd", numbers=10_000, momentum=0.0) == pytest.approx(50.0)
    assert 0.1 <= rate_factor("lion", numbers=10_000, momentum=0.9) <= 1 / 3


def test_an_unknown_optimizer_lists_the_known_ones():
    with pytest.raises(PlanProblem) as caught:
        demand_optimizer("adam")
    assert str(caught.value) == (
        "PlanProblem: no optimizer 'adam'\n  where: optimizer\n  do:    use one of: adamw, adafactor, lion, sgd"
    )
