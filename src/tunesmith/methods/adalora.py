"""Low-rank companions that share one budget of ranks: matrices that matter more keep more of them.

Every companion is a sum of triplets, left vector x value x right vector, and starts with half as many again as it may
keep on average. While training runs, triplets that the loss hardly feels lose their value until the budget is met.

Letters in shapes: R triplets of a companion, I inputs, O outputs of its layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tunesmith.methods import companions
from tunesmith.methods.companions import NAME, adapter, merge
from tunesmith.methods.lora import HEAD_FACTOR, why_not
from tunesmith.methods.space import COMMON, Choices, Space
from tunesmith.models.anatomy import Anatomy

__all__ = [
    "HEAD_FACTOR",
    "OPTIONS",
    "SPACE",
    "WHEN",
    "adapter",
    "after_step",
    "apply",
    "before_step",
    "budget_at",
    "default_learning_rate",
    "merge",
    "ranks",
    "settled_after",
    "why_not",
]

OPTIONS = ("lora_rank", "lora_alpha", "lora_dropout", "adapted_layers", "merge")
WHEN = "long runs under a tight budget: it finds out which layers need their rank"
SPACE: Space = {**COMMON, "lora_rank": Choices((4, 8, 16))}

_START = 1.5  # triplets at the start, for each one that may stay: 12 for 8, as in the paper's runs
_ORTHOGONAL = 0.1  # weight of the penalty on factors that are not orthogonal; the paper's choice on most of GLUE
_MEMORY = 0.85  # of the moving averages of importance and of its uncertainty; both of the paper's betas
_WARM, _SETTLED = 0.15, 0.6  # shares of the steps: before the one nothing is cut, after the other nothing more
_PARTS = ("lora_A", "lora_B", "lora_E")


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Give every linear layer of the body a companion of triplets; their values are zero, so nothing changes yet.

    What the allocation has to remember stands in buffers beside each companion: checkpoints keep it, saved models do
    not.

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Where its blocks and its fresh parts are.
        options: `lora_rank` is the mean rank that stays; the others as for lora.

    Source: Zhang et al. 2023.
    """
    from peft import AdaLoraConfig

    rank = int(options["lora_rank"])
    # PEFT's own allocator keeps its state in Python objects, which a resumed run would not find; ours does the work,
    # and the schedule in this configuration is there because PEFT asks for one.
    config = AdaLoraConfig(
        init_r=math.ceil(_START * rank),
        target_r=rank,
        total_step=1,
        lora_alpha=options["lora_alpha"],
        lora_dropout=float(options["lora_dropout"]),
        **companions.targets(model, anatomy, int(options.get("adapted_layers", 0))),
    )
    model = companions.accompany(model, anatomy, config)
    for layer in companions.matrices(model):
        # PEFT draws tiny vectors, and the penalty would take most of a short run to make them as long as it wants.
        nn.init.orthogonal_(layer.lora_A[NAME])
        nn.init.orthogonal_(layer.lora_B[NAME])
        layer.register_buffer("most_ranks", torch.tensor(rank), persistent=False)  # its share of the budget
        layer.register_buffer("is_kept", torch.ones_like(layer.lora_E[NAME], dtype=torch.bool), persistent=False)
        for part in _PARTS:
            for name in (f"{part}_importance", f"{part}_uncertainty"):
                layer.register_buffer(name, torch.zeros_like(getattr(layer, part)[NAME]), persistent=False)
    return model


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give twice lora's rate: the paper's runs take 5e-4 to 2.2e-3 at 768, above what it gives its lora."""
    return min(4e-3, max(2e-4, 2e-3 * 384 / anatomy.hidden))


def before_step(model: nn.Module) -> None:
    """Add the gradient of the penalty that keeps the left and right vectors of each companion orthogonal.

    Of |P'P - I|^2 it is 4 P (P'P - I). It comes after clipping, so that it does not take the loss's share of the norm.
    Source: Zhang et al. 2023, equation 4.
    """
    with torch.no_grad():
        for layer in companions.matrices(model):
            right_RI, left_OR = layer.lora_A[NAME], layer.lora_B[NAME]
            if right_RI.grad is not None:
                right_RI.grad += 4 * _ORTHOGONAL * _excess(right_RI) @ right_RI
                left_OR.grad += 4 * _ORTHOGONAL * left_OR @ _excess(left_OR.T)


def _excess(matrix_RX: torch.Tensor) -> torch.Tensor:
    """Give the inner products of the rows less those of orthonormal ones (R, R)."""
    return matrix_RX @ matrix_RX.T - torch.eye(len(matrix_RX), device=matrix_RX.device)


def after_step(model: nn.Module, step: int, steps: int) -> None:
    """Note what the loss feels of each triplet, and still those that the budget of this step does not reach.

    Args:
        model: With companions.
        step: Optimiser steps made, from 1.
        steps: Of the whole run.
    """
    layers = companions.matrices(model)
    with torch.no_grad():
        if step < settled_after(steps):
            for layer in layers:
                _note(layer)
        if math.floor(_WARM * steps) < step <= settled_after(steps):
            _cut(layers, budget_at(step, steps, layers))
        for layer in layers:
            layer.lora_E[NAME].masked_fill_(~layer.is_kept, 0.0)


def settled_after(steps: int) -> int:
    """Give the step at which the last triplets go; only the weights after it meet the budget."""
    return max(1, math.ceil(_SETTLED * steps))


def budget_at(step: int, steps: int, layers: list[Any]) -> int:
    """Give how many triplets may stay in all: from what was there, on a cubic curve, to the mean rank asked for.

    Source: Zhang et al. 2023, equation 12.
    """
    first = sum(layer.is_kept.numel() for layer in layers)
    last = sum(int(layer.most_ranks) for layer in layers)
    warm, settled = math.floor(_WARM * steps), settled_after(steps)
    left = 1 - min(1.0, max(0.0, (step - warm) / max(1, settled - warm)))
    return int(last + (first - last) * left**3)


def ranks(model: nn.Module) -> list[int]:
    """Give the triplets that each companion has kept, in the order of the model's layers."""
    return [int(layer.is_kept.sum()) for layer in companions.matrices(model)]


def _note(layer: Any) -> None:
    """Update the moving averages of |weight x gradient| and of how far single steps are from it (equations 8 to 10)."""
    for part in _PARTS:
        weight = getattr(layer, part)[NAME]
        felt = torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).abs()
        importance, uncertainty = getattr(layer, f"{part}_importance"), getattr(layer, f"{part}_uncertainty")
        importance.mul_(_MEMORY).add_(felt, alpha=1 - _MEMORY)
        uncertainty.mul_(_MEMORY).add_((felt - importance).abs(), alpha=1 - _MEMORY)


def _scores(layer: Any) -> torch.Tensor:
    """Give how much the loss feels each triplet (R): its value's score and the mean of its vectors' (equation 7)."""
    score = {part: getattr(layer, f"{part}_importance") * getattr(layer, f"{part}_uncertainty") for part in _PARTS}
    total_R: torch.Tensor = score["lora_E"].view(-1) + score["lora_A"].mean(1) + score["lora_B"].mean(0)
    return total_R


def _cut(layers: list[Any], budget: int) -> None:
    """Keep the best triplets of all layers together; a tie goes to the earlier one, so that the budget is exact."""
    scores = torch.cat([_scores(layer) for layer in layers])
    is_kept = torch.zeros_like(scores, dtype=torch.bool)
    is_kept[torch.argsort(scores, descending=True, stable=True)[:budget]] = True
    for layer, mine in zip(layers, is_kept.split([layer.is_kept.numel() for layer in layers]), strict=True):
        layer.is_kept.copy_(mine.view_as(layer.is_kept))
