"""A last block that averages: mean pooling inside a plain BERT.

Sentence encoders such as all-MiniLM-L6-v2 answer with the mean of their tokens' states; the sequence head of
Transformers reads the first token alone. An ordinary block can hand the mean to that token: queries of zero make its
attention even over all tokens, values and what follows are the identity, and the feed-forward part is zero. So the
saved model is of its family's own class with one block more, and plain Transformers gives the same scores.

What reaches the head is LayerNorm(mean), times a small factor. That norm takes away the mean and the length of the
vector, and cosine likeness hardly sees the difference.

Letters: B batch, T tokens, H hidden.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tunesmith.models.anatomy import Anatomy

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
"""Families (`model_type`) whose blocks are BERT's: attention, add, norm, feed-forward, add, norm."""

_LOUD = 1000.0  # times the mean, against one times the first token's own state, which a block always adds
_SOFT = 0.01  # what the last norm multiplies by: behind it stands a tanh, which is a straight line for small numbers


class MeanBlock(nn.Module):  # type: ignore[misc]
    """A block that hands the mean of all states to the first token, with the parts and weights of an ordinary one.

    It computes what the ordinary block would, for the first token only.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = block.attention, block.intermediate, block.output

    def forward(self, states_BTH: torch.Tensor, attention_mask: Any = None, *_: Any, **__: Any) -> torch.Tensor:
        """Give the first token's state (B, 1, H)."""
        attention, first_BH = self.attention, states_BTH[:, 0]
        mean_BH = attention.self.value(_mean(states_BTH, attention_mask))
        mixed_BH = attention.output.LayerNorm(attention.output.dense(mean_BH) + first_BH)
        # The feed-forward part adds nothing but its bias: its weights are zero, and stay so.
        found: torch.Tensor = self.output.LayerNorm(mixed_BH + self.output.dense.bias)
        return found.unsqueeze(1)


def _mean(states_BTH: torch.Tensor, mask: Any) -> torch.Tensor:
    """Average over the tokens that the mask lets through: none given, yes and no, or 0 and a very low number."""
    if mask is None:
        return states_BTH.mean(1)
    seen_BT = mask if mask.dim() == 2 else mask[:, 0, 0]
    is_seen = seen_BT if seen_BT.dtype == torch.bool else (seen_BT > 0 if mask.dim() == 2 else seen_BT > -1)
    weights_BT1 = is_seen.unsqueeze(-1).to(states_BTH.dtype)
    return (states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1).clamp_min(1)


def why_not(anatomy: Anatomy) -> str | None:
    """Give the reason why no such block can be added; None where it can."""
    if anatomy.family not in FAMILIES or anatomy.is_decoder:
        return f"the blocks of {anatomy.family or 'this model'} are not those of {', '.join(FAMILIES)}"
    return None


def add_mean_block(model: nn.Module, anatomy: Anatomy) -> nn.Module:
    """Add the block on top; pooler, or first layer of the head, hand on what it gives. None of them learns.

    Args:
        model: Of a family in `FAMILIES`, with a sequence head. Changed in place, its configuration too.
        anatomy: Of the model; its `blocks` stay those of the base.

    Returns:
        The block.
    """
    layer = copy.deepcopy(anatomy.blocks[-1])
    attention = layer.attention
    with torch.no_grad():
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                part.weight.zero_()
                part.bias.zero_()
        nn.init.eye_(attention.self.value.weight)
        attention.output.dense.weight.copy_(_LOUD * torch.eye(anatomy.hidden))
        for norm, factor in ((attention.output.LayerNorm, 1.0), (layer.output.LayerNorm, _SOFT)):
            norm.weight.fill_(factor)
            norm.bias.zero_()
    if hasattr(attention.self, "layer_idx"):
        attention.self.layer_idx = len(anatomy.blocks)
    block = MeanBlock(layer).requires_grad_(False)
    model.base_model.encoder.layer.append(block)
    model.config.num_hidden_layers += 1
    for dense in _between(model, anatomy):
        nn.init.eye_(dense.weight)
        nn.init.zeros_(dense.bias)
        dense.requires_grad_(False)
    return block


def _between(model: nn.Module, anatomy: Anatomy) -> list[nn.Linear]:
    """Give the layers between the last block and the output layer: BERT's pooler, or how RoBERTa's head begins."""
    pooler = getattr(model.base_model, "pooler", None)
    linear = [part for head in anatomy.head for part in head.modules() if isinstance(part, nn.Linear)][:-1]
    return [*([pooler.dense] if pooler is not None else []), *linear]
