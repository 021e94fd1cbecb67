"""Dropout as CPUs are quick at it: eight random bits a number, where torch draws a double for each.

Drawing is a tenth of a training step of a small encoder that way. The rate is rounded to 256ths, and what stays is
scaled by the rounded rate, so that sums are kept on average. Source: Srivastava et al. 2014, "Dropout".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def dropped(values: torch.Tensor, rate: float) -> torch.Tensor:
    """Give the values with a share of them set to 0, and the rest scaled up. Draws from torch's own generator.

    Args:
        values: On a CPU, of any shape.
        rate: Share (0..1) to drop.
    """
    share = min(255, max(1, round(256 * rate)))
    words = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    bits = words.view(torch.int8)[: values.numel()].view(values.shape)  # -128..127: the lowest `share` of them drop
    kept = bits.to(values.dtype).sub_(share - 129).clamp_(0, 1)  # arithmetic is vectorised, comparing and filling not
    return values * kept.mul_(256 / (256 - share))


class QuickDropout(nn.Dropout):  # type: ignore[misc]
    """A dropout layer that draws quickly on a CPU, and as ever elsewhere."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Drop, while it trains."""
        if not self.training or self.inplace or not 0 < self.p < 1 or values.device.type != "cpu":
            return super().forward(values)
        return dropped(values, self.p)


@contextlib.contextmanager
def quick_dropout(model: nn.Module) -> Iterator[None]:
    """Let a model's dropout layers draw quickly; afterwards they are as they were."""
    found = [module for module in model.modules() if type(module) is nn.Dropout]
    for module in found:
        module.__class__ = QuickDropout
    try:
        yield
    finally:
        for module in found:
            module.__class__ = nn.Dropout
