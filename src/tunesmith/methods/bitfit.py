"""Train the biases and the head; every matrix of the body stays as it was pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods.space import COMMON, Space
from tunesmith.models.anatomy import Anatomy, parts_above, upper

OPTIONS = ("adapted_layers", "merge")
WHEN = "few rows, and the smallest change that the model's own parts allow"
HEAD_FACTOR = 1.0  # the rate is already that of a head
SPACE: Space = COMMON


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason where the body has no biases, as T5's and most recent decoders' have none."""
    return None if _biases(anatomy) else "the body of this model has no biases to train"


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Freeze the model, then free the biases of the body and the fresh parts.

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Where its body and its fresh parts are.
        options: `adapted_layers`: of how many blocks, from the top, with what lies above them (0: of the whole body).

    Source: Ben-Zaken et al. 2022. The biases of layer norms are among them, as there.
    """
    model.requires_grad_(False)
    for bias in _biases(anatomy, int(options.get("adapted_layers", 0))):
        bias.requires_grad_(True)
    for part in anatomy.fresh:
        part.requires_grad_(True)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Give the model as it is: biases are weights of its own."""
    return model.requires_grad_(False)


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 1e-3 at 768: the upper end of what the paper searched for its BERT models, since so little may change."""
    return min(4e-3, max(4e-4, 2e-3 * 384 / anatomy.hidden))


def _biases(anatomy: Anatomy, blocks: int = 0) -> list[nn.Parameter]:
    """Give the vectors called bias; T5's table of relative positions is a matrix and no bias in this sense."""
    parts: list[nn.Module] = [anatomy.body]
    if blocks:
        reached = [block for stack in upper(anatomy, blocks).stacks for block in stack]
        parts = [*reached, *parts_above(anatomy)]
    named = [entry for part in parts for entry in part.named_parameters()]
    return [one for name, one in named if name.rpartition(".")[2].endswith("bias") and one.dim() == 1]
