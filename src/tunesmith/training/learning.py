"""How the gradient of one fill is made: from which loss, in how many passes.

Letters: N units, L labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from tunesmith.tasks.losses import LossShape, divergence, plain_loss, shaped_loss
from tunesmith.training.augmentation.mixup import Mixed

Batch = Mapping[str, torch.Tensor]
Beside = Callable[[nn.Module, Batch, Sequence[torch.Tensor]], torch.Tensor]
"""A loss that is added to the task's own and summed over the same rows: of the model, the batch, and what the model
gave for it in each pass that the task's loss has made."""

Context = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Fill:
    """Rows on their way through the model."""

    model: nn.Module
    batch: Batch
    backward: Callable[[torch.Tensor], None]  # adds the gradient of a loss that is summed over the fill's units
    computing: Context = contextlib.nullcontext  # the precision of a pass forward
    apart: Context = contextlib.nullcontext  # around all passes but the last: several processes then do not exchange


class Criterion(Protocol):
    """What is learnt from, of one or several passes forward."""

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the loss to learn from, and the plain one to report; both summed over the units of the batch."""


class Learning(Protocol):
    """Makes the gradient of a fill."""

    def learn(self, fill: Fill) -> torch.Tensor:
        """Add to the gradients; give the plain loss, summed over the units, without its graph."""


@dataclass(frozen=True)
class TaskLoss:
    """The task's own loss."""

    task: Any

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give it, to learn from and to report."""
        loss = self.task.loss(model, batch)
        return loss, loss


@dataclass(frozen=True)
class ShapedLoss:
    """The task's cross-entropy, bent."""

    task: Any
    shape: LossShape

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the bent loss to learn from, and the plain one to report."""
        logits_NL, labels = self.task.labelled_logits(model, batch)
        return shaped_loss(logits_NL, labels, self.shape), plain_loss(logits_NL.detach(), labels)


@dataclass(frozen=True)
class TwoPasses:
    """R-Drop: two passes with other dropout, which should answer alike.

    The mean of both losses, plus `weight` times the mean of both divergences. Source: Liang et al. 2021; their equation
    sums the two losses, their released code takes the mean, as here.
    """

    task: Any
    shape: LossShape
    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the loss of both passes to learn from, and the plain one of both to report."""
        first_NL, labels = self.task.labelled_logits(model, batch)
        second_NL, _ = self.task.labelled_logits(model, batch)
        losses = [shaped_loss(logits_NL, labels, self.shape) for logits_NL in (first_NL, second_NL)]
        plain = [plain_loss(logits_NL.detach(), labels) for logits_NL in (first_NL, second_NL)]
        apart = divergence(first_NL, second_NL, is_binary=labels.is_floating_point())
        return (losses[0] + losses[1]) / 2 + self.weight * apart, (plain[0] + plain[1]) / 2


@dataclass(frozen=True)
class OnePass:
    """One pass forward and one backward: what most runs do."""

    criterion: Criterion

    def learn(self, fill: Fill) -> torch.Tensor:
        """Add the gradient of the criterion."""
        with fill.computing():
            loss, plain = self.criterion(fill.model, fill.batch)
        fill.backward(loss)
        return plain.detach()


@dataclass(frozen=True)
class WithBeside:
    """What is learnt, and a second loss that is added to it and not reported."""

    criterion: Criterion
    beside: Beside

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give both losses to learn from, and the plain first one to report."""
        seen: list[torch.Tensor] = []

        def note(_: nn.Module, __: Any, output: Any) -> None:
            seen.append(getattr(output, "logits", output))

        hook = model.register_forward_hook(note)
        try:
            loss, plain = self.criterion(model, batch)
        finally:
            hook.remove()
        is_mixed = isinstance(self.criterion, Mixed)  # then what was seen is the answer to no row of the batch
        return loss + self.beside(model, batch, () if is_mixed else seen), plain


def criterion_of(task: Any, options: Mapping[str, Any]) -> Criterion:
    """Give what the plan's options say is learnt from; the task's own loss where they say nothing.

    Args:
        task: With `labelled_logits` where an option is set.
        options: Of the plan.
    """
    weights = options.get("class_weights", "none")
    shape = LossShape(
        float(options.get("label_smoothing", 0.0)),
        float(options.get("focal_gamma", 0.0)),
        () if weights == "none" else tuple(weights),
    )
    if mixup := options.get("mixup"):
        return Mixed(task, shape, float(mixup["alpha"]), str(mixup["at"]))
    if weight := float(options.get("r_drop", 0.0)):
        return TwoPasses(task, shape, weight)
    return TaskLoss(task) if shape.is_plain else ShapedLoss(task, shape)
