"""Full fine-tuning: every parameter may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods.space import COMMON, Space
from tunesmith.models.anatomy import Anatomy

OPTIONS: tuple[str, ...] = ()
WHEN = "enough rows and memory: the most a base can give"
SPACE: Space = COMMON


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give None: every task and model can be tuned in full."""
    return None


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Free every parameter.

    Args:
        model: Base model with a fresh head. Changed in place.
        anatomy: Not needed here; every method is given it.
        options: This method has none.
    """
    return model.requires_grad_(True)


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give a rate that falls with the width of the model: 1e-4 at 384, 5e-5 at 768, 3.75e-5 at 1024.

    Wider models break at rates that narrow ones need; the published recipes (2e-5 to 5e-5) are for widths of 768 and
    more. The value at 384 comes from a few runs of all-MiniLM-L6-v2: see docs/notebook.md.
    """
    return min(1e-3, max(1e-5, 1e-4 * 384 / anatomy.hidden))
