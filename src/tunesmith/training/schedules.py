"""How the learning rate goes over a run: pure functions of the step, so that a resumed run goes on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.types import Plan

Shape = Callable[[int, int, int], float]
"""Share (0..1) of the peak rate at `step` (from 0, at or after the warm-up) of `steps`, after `warmup` steps."""


def linear(step: int, steps: int, warmup: int) -> float:
    """Fall evenly to zero at the end."""
    return max(0.0, (steps - step) / max(1, steps - warmup))


def cosine(step: int, steps: int, warmup: int) -> float:
    """Fall along half a cosine to zero at the end: slowly, fast, slowly. Source: Loshchilov & Hutter 2017."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def constant(step: int, steps: int, warmup: int) -> float:
    """Stay at the peak."""
    return 1.0


def inverse_sqrt(step: int, steps: int, warmup: int) -> float:
    """Fall as one over the root of the steps, so that the end need not be known. Source: Vaswani et al. 2017."""
    return math.sqrt(max(1, warmup) / max(1, warmup, step))


SCHEDULES: dict[str, Shape] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "inverse-sqrt": inverse_sqrt,
}


def demand_schedule(name: str) -> str:
    """Give the name of a schedule.

    Raises:
        PlanProblem: There is none of this name.
    """
    if name not in SCHEDULES:
        raise PlanProblem(f"no schedule '{name}'", where="schedule", do=f"use one of: {nearest_first(name, SCHEDULES)}")
    return name


def learning_rate_at(step: int, plan: Plan) -> float:
    """Give the rate of the step counted from 0: linear warm-up to the peak, then as the plan's schedule goes."""
    peak = float(plan.options["learning_rate"])
    warmup = math.ceil(float(plan.options["warmup_ratio"]) * plan.steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * SCHEDULES[str(plan.options.get("schedule", "linear"))](step, plan.steps, warmup)
