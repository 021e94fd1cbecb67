"""Low-rank companions: every linear layer of the body gets a trainable matrix of low rank beside its frozen weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods import companions
from tunesmith.methods.companions import adapter, merge
from tunesmith.methods.space import COMMON, Choices, Space
from tunesmith.models.anatomy import Anatomy

__all__ = ["HEAD_FACTOR", "OPTIONS", "SPACE", "WHEN", "adapter", "apply", "default_learning_rate", "merge", "why_not"]

OPTIONS = ("lora_rank", "lora_alpha", "lora_dropout", "adapted_layers", "merge")
WHEN = "the first choice when full tuning is too large to train or to keep; often as good"
HEAD_FACTOR = 2.0  # so that the head learns at about the rate that full tuning gives it
SPACE: Space = {**COMMON, "lora_rank": Choices((4, 8, 16, 32))}


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason only where the blocks have no linear layers."""
    return companions.no_linear_layers(anatomy)


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Give every linear layer of the body a trainable companion; its second factor is zero, so nothing changes yet.

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Where its blocks and its fresh parts are.
        options: `lora_rank` (1 or more), `lora_alpha` (the companion counts alpha / rank times), `lora_dropout`, and
            `adapted_layers`, the blocks it is about, from the top (0: all).

    Source: Hu et al. 2021. There only the attention's projections are accompanied; all linear layers of the blocks do
    better at the same size (Dettmers et al. 2023).
    """
    return companions.accompany(model, anatomy, config_of(model, anatomy, options))


def config_of(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any], **more: Any) -> Any:
    """Give PEFT's configuration for these options."""
    from peft import LoraConfig

    return LoraConfig(
        r=int(options["lora_rank"]),
        lora_alpha=options["lora_alpha"],
        lora_dropout=float(options["lora_dropout"]),
        **companions.targets(model, anatomy, int(options.get("adapted_layers", 0))),
        **more,
    )


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give ten times full tuning's rate: 5e-4 at 768 and 3.75e-4 at 1024, as the paper's RoBERTa runs have it."""
    return min(2e-3, max(1e-4, 1e-3 * 384 / anatomy.hidden))
