"""Bottleneck adapters: small two-layer networks that correct what attention and feed-forward write.

Letters in shapes: ... batch and tokens, H width of the model, W width of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from tunesmith.errors import PlanProblem
from tunesmith.methods.space import COMMON, Choices, Space
from tunesmith.models.anatomy import Anatomy, upper, writing_layers

OPTIONS = ("adapter_size", "adapter_places", "adapted_layers", "merge")
WHEN = "one base with many tasks, where a task may take 1 to 4% of its size"
HEAD_FACTOR = 2.0
SPACE: Space = {
    **COMMON,
    "adapter_size": Choices((16, 32, 64, 128)),
    "adapter_places": Choices(("both", "feed-forward")),
}
_PLACES = ("both", "feed-forward")


class Adapted(nn.Module):  # type: ignore[misc]
    """A frozen linear layer, and a correction of what it gives: up(gelu(down(x))) is added to x.

    `up` starts at zero, so the model answers as before. Source: Houlsby et al. 2019, figure 2; their near-identity
    start draws `up` very small instead, which gives no bits back and no gradient sooner.
    """

    def __init__(self, layer: nn.Module, hidden: int, size: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(hidden, size)
        self.up = nn.Linear(size, hidden)
        nn.init.normal_(self.down.weight, std=hidden**-0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen layer's weight: T5 looks at its type before it calls the layer."""
        return cast("torch.Tensor", self.layer.weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """The frozen layer's bias."""
        return cast("torch.Tensor | None", self.layer.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., anything) to (..., H) as the layer does, then correct it."""
        written = self.layer(states)
        corrected: torch.Tensor = written + self.up(functional.gelu(self.down(written)))
        return corrected


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason where no linear layer writes into the stream of states."""
    if any(writing_layers(block, anatomy.hidden) for stack in anatomy.stacks for block in stack):
        return None
    return "no linear layer in the blocks of this model ends an attention or a feed-forward, so adapters have no place"


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Freeze the model, and put an adapter behind each attention and feed-forward, or behind feed-forwards only.

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Where its blocks and its fresh parts are.
        options: `adapter_size`, the width of the bottleneck; `adapter_places`, "both" (Houlsby et al. 2019) or
            "feed-forward" (Pfeiffer et al. 2021, who found the second half enough); `adapted_layers`, in how many
            blocks, from the top (0: in all).

    Raises:
        PlanProblem: No such places, or no such number of blocks.
    """
    places = str(options["adapter_places"])
    if places not in _PLACES:
        raise PlanProblem(
            f"adapter_places is '{places}'", where="adapter_places", do=f"use one of: {', '.join(_PLACES)}"
        )
    model.requires_grad_(False)
    wanted: set[int] = set()
    for block in (block for stack in upper(anatomy, int(options.get("adapted_layers", 0))).stacks for block in stack):
        layers = writing_layers(block, anatomy.hidden)
        wanted |= {id(layer) for layer in (layers if places == "both" else layers[-1:])}
    for name, layer in [(name, layer) for name, layer in model.named_modules() if id(layer) in wanted]:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Adapted(layer, anatomy.hidden, int(options["adapter_size"])))
    for part in anatomy.fresh:
        part.requires_grad_(True)
    return model


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 5e-4 at 768: between the 1e-4 of Pfeiffer's runs and the 1e-3 that Houlsby's search often chose."""
    return min(2e-3, max(1e-4, 1e-3 * 384 / anatomy.hidden))
