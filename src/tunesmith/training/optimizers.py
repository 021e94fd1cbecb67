"""What turns a gradient into a step: one of several optimisers, over groups of parameters with rates of their own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.models.anatomy import Anatomy
from tunesmith.training.depth import parameter_depths
from tunesmith.types import Plan

OPTIMIZERS = ("adamw", "adafactor", "sgd", "lion")
LARGEST_RATE = 10.0  # that a recipe may ask for, and a default may come to
_LION_FACTOR = 1 / 3  # Chen et al. 2023, section 5, advise a third to a tenth; fine-tuning runs are short
_SGD_SHARE = 0.5  # of AdamW's length of a step


def demand_optimizer(name: str) -> str:
    """Give the name of an optimiser.

    Raises:
        PlanProblem: There is none of this name.
    """
    if name not in OPTIMIZERS:
        raise PlanProblem(
            f"no optimizer '{name}'", where="optimizer", do=f"use one of: {nearest_first(name, OPTIMIZERS)}"
        )
    return name


def rate_factor(name: str, *, numbers: int, momentum: float) -> float:
    """Give how many times AdamW's learning rate suits an optimiser: the rate at which its steps are about as long.

    With every number moved by the rate, AdamW's step is rate * sqrt(numbers) long. Adafactor's, without the scaling by
    the weights' own size, is at most that. Lion's is exactly that where AdamW's is mostly shorter. SGD's is at most
    rate / (1 - momentum), for gradients are clipped to 1. Half of that length is taken: on SST-2 (1,000 rows, one
    epoch, all-MiniLM-L6-v2, method top-layers) it gives sgd 0.029, near 0.03 which learnt; at 0.058 it did not.

    Args:
        name: One of `OPTIMIZERS`.
        numbers: That learn.
        momentum: Of sgd (0..1, less than 1).
    """
    if name == "sgd":
        return _SGD_SHARE * math.sqrt(numbers) * (1 - momentum)
    return _LION_FACTOR if name == "lion" else 1.0


def parameter_groups(model: nn.Module, plan: Plan, anatomy: Anatomy | None = None) -> list[dict[str, Any]]:
    """Give the trainable parameters in groups of one weight decay and one `factor` of the learning rate.

    Biases and norms do not decay; the fresh head learns faster; with layer-wise decay, blocks near the input slower:
    a block d levels below the head at `layer_decay ** d` of the rate, embeddings at the least.

    Args:
        model: With the method applied.
        plan: `weight_decay`, `head_learning_rate_factor` and `layer_decay`.
        anatomy: Of the model; only needed for `layer_decay`.

    Source: Clark et al. 2020 (ELECTRA) for layer-wise decay, where the head too counts as a level above the blocks.
    """
    body = {id(parameter) for parameter in model.base_model.parameters()}
    factors = {True: 1.0, False: float(plan.options["head_learning_rate_factor"])}
    share = float(plan.options.get("layer_decay", 1.0))
    depths: dict[nn.Parameter, int] = {}
    top = 0
    if share != 1.0:
        assert anatomy is not None
        depths, top = parameter_depths(model, anatomy)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = float(plan.options["weight_decay"]) if parameter.dim() > 1 else 0.0
            factor = factors[id(parameter) in body] * share ** (top - depths.get(parameter, top))
            groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": group, "weight_decay": decay, "factor": factor} for (factor, decay), group in groups.items()]


def make_optimizer(model: nn.Module, plan: Plan, anatomy: Anatomy | None = None) -> torch.optim.Optimizer:
    """Make the plan's optimiser over the trainable parameters.

    Sources: Loshchilov & Hutter 2019 (AdamW; the fused kernel does the same arithmetic in one pass over memory),
    Shazeer & Stern 2018 (Adafactor, without the scaling by the weights' own size, which would hold back all that
    starts at zero), Chen et al. 2023 (Lion). SGD's decay is part of its gradient, the others' is apart from it.
    """
    groups = parameter_groups(model, plan, anatomy)
    rate, name = float(plan.options["learning_rate"]), str(plan.options.get("optimizer", "adamw"))
    if name == "sgd":
        # One call for many tensors; the fused kernel cannot start some of them later, as unfreezing does.
        return torch.optim.SGD(groups, lr=rate, momentum=float(plan.options["momentum"]), foreach=True)
    if name == "lion":
        from tunesmith.training.lion import Lion

        return Lion(groups, lr=rate)
    if name == "adafactor":
        from transformers import Adafactor

        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(groups, lr=rate, fused=True)
