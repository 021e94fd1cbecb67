"""Where the time of a run goes, stage by stage, and how much of the machine it uses.

The yardstick of use is the machine's own matrix peak: what it reaches, with the same number of threads, when it does
nothing but multiply matrices of a size that suits it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunesmith.models.anatomy import Anatomy, linear_layers

_SIDE = 768  # of the square matrices: they fit the caches, and one product takes milliseconds
_PEAK_SECONDS = 0.15


@dataclass
class Stopwatch:
    """Counts seconds by name. A stage that runs inside another is not counted in the outer one as well."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0  # real ones, without padding, that went into training steps
    _names: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Charge the time of the block to `name`."""
        self._charge()
        self._names.append(name)
        try:
            yield
        finally:
            self._charge()
            self._names.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._names:
            self.seconds[self._names[-1]] = self.seconds.get(self._names[-1], 0.0) + now - self._since
        self._since = now


STEPS = ("batches", "forward", "backward", "update")  # the stages that a training step is made of


def speed(
    watch: Stopwatch, anatomy: Anatomy, model: nn.Module, *, blocks: int, device: str, processes: int = 1
) -> dict[str, Any]:
    """Give what a run has reached.

    Args:
        watch: Of the run.
        anatomy: Of the model.
        model: As it was trained.
        blocks: Lowest blocks whose states were computed once, and did not run in training steps.
        device: Where it was trained.
        processes: Of the run; each has done about the same share of what `watch` has counted in one.

    Returns:
        `stages` (seconds by name), `tokens`, `tokens_per_second` of the training steps, `gflops` (their matrix products
        alone, counted, not measured), and on a CPU `peak_gflops` and `share_of_peak` (0..1).
    """
    seconds = sum(watch.seconds.get(name, 0.0) for name in STEPS)
    tokens = watch.tokens * processes
    found: dict[str, Any] = {"stages": dict(watch.seconds), "tokens": tokens}
    if processes > 1:
        found["processes"] = processes
    if not tokens or not seconds:
        return found
    gflops = tokens * flops_per_token(anatomy, model, blocks=blocks) / seconds / 1e9
    found |= {"tokens_per_second": tokens / seconds, "gflops": gflops}
    if device == "cpu":
        peak = matrix_peak() * processes
        found |= {"peak_gflops": peak, "share_of_peak": gflops / peak}
    return found


def flops_per_token(anatomy: Anatomy, model: nn.Module, *, blocks: int = 0) -> float:
    """Give the floating-point operations of one token's matrix products in a training step.

    A weight costs two forward, two more where its input needs a gradient, and two more where it learns itself. What
    attention does between tokens is left out: for texts of a few hundred tokens it is small beside the weights.

    Args:
        anatomy: Of the model.
        model: With the method applied.
        blocks: Lowest blocks that do not run.
    """
    layers = set(map(id, linear_layers(model, anatomy).values()))
    has_gradient = any(parameter.requires_grad for parameter in anatomy.embeddings.parameters())
    operations = 0.0
    for block in anatomy.blocks[blocks:]:
        parts = [part for part in block.modules() if id(part) in layers]
        learns = any(parameter.requires_grad for parameter in block.parameters())
        for part in parts:
            factor = 2 + 2 * (has_gradient or learns) + 2 * bool(part.weight.requires_grad)
            operations += factor * part.weight.numel()
        has_gradient |= learns
    return operations


def matrix_peak() -> float:
    """Measure what this machine reaches in float32 with the threads that torch has now, in 10^9 operations a second."""
    left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    left @ right
    best, end = 0.0, time.perf_counter() + _PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * _SIDE**3 / (time.perf_counter() - start) / 1e9)
    return best
