"""Tune the top `k` blocks and the head; everything below stays as it was pretrained. `k = 0` is a linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.methods.space import COMMON, Range, Space
from tunesmith.models.anatomy import Anatomy

OPTIONS: tuple[str, ...] = ("top_layers",)
WHEN = "a quick look, and very few rows; 0 layers asks what the base knows already"
SPACE: Space = {**COMMON, "top_layers": Range(0, 12, is_whole=True, at_most="blocks")}


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give None: every model with blocks has top layers."""
    return None


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Freeze the model, then free its top blocks, what follows them in the body (norm, pooler) and the head.

    Args:
        model: Base model with a fresh head. Changed in place.
        anatomy: Its blocks, bottom to top.
        options: `top_layers`, how many blocks to free (0 .. number of blocks).

    Raises:
        PlanProblem: More blocks than there are, or fewer than none.
    """
    count = int(options["top_layers"])
    if not 0 <= count <= len(anatomy.blocks):
        raise PlanProblem(
            f"top_layers is {count}; this model has {len(anatomy.blocks)} blocks",
            where="top_layers",
            do=f"choose 0 (a linear probe) to {len(anatomy.blocks)}",
        )
    model.requires_grad_(False)
    free = [*anatomy.head, *anatomy.blocks[len(anatomy.blocks) - count :]]
    if count:
        pooler = getattr(anatomy.body, "pooler", None)
        free += [pooler] if pooler is not None else []
    for part in free:
        part.requires_grad_(True)
    return model


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give a higher rate than full tuning takes: fewer parameters, and none of them near the input."""
    return min(1e-3, max(2e-5, 3e-4 * 384 / anatomy.hidden))
