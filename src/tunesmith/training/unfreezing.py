"""Gradual unfreezing: at first only the head learns, then one more block from the top at each stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import Anatomy
from tunesmith.training.depth import parameter_depths

STAGES = ("none", "epoch", "even")
_ALL_FREE = 0.5  # share of the steps after which `even` holds nothing back


class Unfreezing:
    """Which of the trainable parameters are held back at which step: a function of the step alone.

    Args:
        model: With the method applied; what it froze stays frozen.
        anatomy: Of the model.
        stage_steps: How many steps each stage lasts (not always a whole number).

    Source: Howard & Ruder 2018, section 3.3, with one learning-rate schedule over the whole run.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, *, stage_steps: float) -> None:
        depths, _ = parameter_depths(model, anatomy)
        learning = {one: depth for one, depth in depths.items() if one.requires_grad}
        levels = sorted(set(learning.values()), reverse=True)  # the head's first
        self.parts = [[one for one, depth in learning.items() if depth == level] for level in levels]
        self.stage_steps = stage_steps

    def held_at(self, step: int) -> list[nn.Parameter]:
        """Give the parameters that do not learn yet at this step (from 0)."""
        stage = min(len(self.parts) - 1, int(step / self.stage_steps))
        return [parameter for part in self.parts[stage + 1 :] for parameter in part]

    @contextlib.contextmanager
    def holding(self, step: int, *, is_alone: bool) -> Iterator[None]:
        """Freeze them for the time of one step, so that no gradient is computed for them.

        Args:
            step: From 0.
            is_alone: Whether this is the only process; with several, who exchange the gradients of all parameters, they
                are computed and `drop` takes them away.
        """
        held = self.held_at(step) if is_alone else []
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def drop(self, step: int) -> None:
        """Take away the gradients of what is held back; optimisers pass over parameters without one."""
        for parameter in self.held_at(step):
            parameter.grad = None


def level_count(model: nn.Module, anatomy: Anatomy) -> int:
    """Give how many levels of the model (head, blocks, embeddings) have something that learns."""
    depths, _ = parameter_depths(model, anatomy)
    return len({depth for one, depth in depths.items() if one.requires_grad})


def stage_steps_of(how: str, *, levels: int, steps: int, epoch_steps: int) -> float:
    """Give how many steps each stage lasts.

    Args:
        how: `epoch`, or `even` for stages of one length of which the last begins before half of the steps.
        levels: That learn.
        steps: Of the run.
        epoch_steps: Of one pass over the training rows.
    """
    return float(epoch_steps) if how == "epoch" else max(1.0, _ALL_FREE * steps / levels)


def demand_levels(how: str, levels: int) -> str:
    """Give the way of unfreezing, if the method leaves anything to unfreeze.

    Raises:
        PlanProblem: There is no such way, or only one level learns.
    """
    if how not in STAGES:
        raise PlanProblem(f"unfreeze is '{how}'", where="unfreeze", do=f"use one of: {', '.join(STAGES)}")
    if how != "none" and levels < 2:
        raise PlanProblem(
            "there is nothing to unfreeze one after the other: all that this method lets learn lies on one level",
            where="unfreeze",
            do="leave unfreeze out, or choose a method that reaches the blocks, e.g. full or lora",
        )
    return how
