"""Lion: every weight moves by the rate, in the direction of a mean of gradients; only the sign of that mean counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):  # type: ignore[misc]
    """The optimiser that was found by program search; it keeps one number for each weight, AdamW two.

    Args:
        params: Parameters, or groups of them.
        lr: How far each weight moves in a step; a third to a tenth of AdamW's rate.
        betas: Share of the past in the direction of a step, and in what is remembered.
        weight_decay: Share of each weight that is lost in a step, times the rate.

    Source: Chen et al. 2023, algorithm 2, whose betas are the defaults here.
    """

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step; parameters without a gradient stay.

        Args:
            closure: Computes the loss again, as torch's optimisers allow.

        Returns:
            The loss that the closure gave.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, group)
        return loss

    def _move(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Move all parameters of a group at once: the `foreach` functions cost one call for many tensors."""
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "average" not in self.state[parameter]:
                self.state[parameter]["average"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["average"] for parameter in parameters]
        rate, (direction_share, memory) = group["lr"], group["betas"]
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        directions = torch._foreach_lerp(gradients, averages, direction_share)
        torch._foreach_sign_(directions)
        torch._foreach_add_(parameters, directions, alpha=-rate)
        torch._foreach_lerp_(averages, gradients, 1 - memory)
