"""Several models of one tokenizer that label tokens, as one: the mean of their logits.

Letters: B batch, T tokens, L tags, M members.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import TokenClassifierOutput


class TokenMean(nn.Module):  # type: ignore[misc]
    """Runs every member over the same tokens.

    Args:
        models: The members' models, in evaluation mode.
        orders: For each member the place of every tag (L) in its own output.
        tags: Their names, in the order in which they are given.
    """

    def __init__(self, models: Sequence[Any], orders: Sequence[Sequence[int]], tags: Sequence[str]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.orders = [list(order) for order in orders]
        self.config = copy.deepcopy(models[0].config)
        self.config.id2label = dict(enumerate(tags))
        self.config.label2id = {tag: place for place, tag in enumerate(tags)}

    def forward(self, **inputs: Any) -> Any:
        """Give the mean of the members' logits (B, T, L)."""
        each = [
            model(**inputs).logits.float()[..., order] for model, order in zip(self.members, self.orders, strict=True)
        ]
        return TokenClassifierOutput(logits=torch.stack(each).mean(0))
