"""Low-rank companions that change a weight's direction, beside a trained length for each of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods import companions, lora
from tunesmith.methods.companions import adapter, merge
from tunesmith.methods.lora import HEAD_FACTOR, default_learning_rate, why_not
from tunesmith.models.anatomy import Anatomy

__all__ = ["HEAD_FACTOR", "OPTIONS", "SPACE", "WHEN", "adapter", "apply", "default_learning_rate", "merge", "why_not"]

OPTIONS = lora.OPTIONS
SPACE = lora.SPACE
WHEN = "where lora at a low rank stays behind full tuning; steps take longer"


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Part every weight of the body into length and direction; train the length, and the direction by companions.

    Args:
        model: Base model with its head. Changed in place; its answers are the same at first.
        anatomy: Where its blocks and its fresh parts are.
        options: As for lora.

    Source: Liu et al. 2024, section 4.1. The norm of the direction takes no part in the gradient (section 4.3).
    """
    return companions.accompany(model, anatomy, lora.config_of(model, anatomy, options, use_dora=True))
