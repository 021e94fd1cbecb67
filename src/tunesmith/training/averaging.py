"""Averaged weights: steadier than the last ones, at the cost of one more copy of what learns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

AVERAGES = ("none", "ema", "swa")


class Average:
    """A running mean of the trainable parameters, kept beside them. What is evaluated and kept is the mean.

    - `ema`: mean <- d mean + (1 - d) weights after step t, with d = min(decay, (1 + t) / (10 + t)): a short run would
      otherwise hardly leave its start. Source: Polyak & Juditsky 1992; the warm-up is that of TensorFlow's averages.
    - `swa`: the plain mean of the weights after each step of the last `share` of the run. Source: Izmailov et al. 2018,
      who take the end of each epoch, at a constant or cyclic rate.

    Args:
        model: Its trainable parameters are averaged; buffers are not.
        kind: `ema` or `swa`.
        steps: Of the run.
        decay: Of `ema` (0..1).
        share: Of `swa` (0..1).
    """

    def __init__(self, model: nn.Module, kind: str, *, steps: int, decay: float, share: float) -> None:
        self.kind, self.decay = kind, decay
        self.first = 1 if kind == "ema" else min(steps, math.floor((1 - share) * steps) + 1)
        self.named = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self.mean = {name: one.detach().clone() for name, one in self.named.items()}

    def after_step(self, step: int) -> None:
        """Take in the weights after this step (from 1)."""
        if step < self.first:
            return
        memory = min(self.decay, (1 + step) / (10 + step)) if self.kind == "ema" else 1 - 1 / (step - self.first + 1)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.mean.values()), [one.detach() for one in self.named.values()], 1 - memory)

    @contextlib.contextmanager
    def in_place(self, step: int) -> Iterator[None]:
        """Let the model have the mean for a while, and its own weights again afterwards; nothing is copied.

        Args:
            step: Steps made; before the first that is averaged nothing changes.
        """
        if step < self.first:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.named.items():
            self.mean[name], parameter.data = parameter.data, self.mean[name]

    def settle(self, step: int) -> None:
        """Put the mean into the model for good, if training came as far (in `step` steps) as to have one."""
        if step < self.first:
            return
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(self.mean[name])

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the mean from a checkpoint, by the parameters' names."""
        for name, mean in self.mean.items():
            mean.copy_(tensors[name])
