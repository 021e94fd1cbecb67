"""A task of which some training rows count less than others. What is not said here is as the task itself has it.

Every loss here is a sum over rows, and each row's part depends on the logits of that row alone. So the gradient at a
row's logits, times the row's weight, is the gradient of the weighted loss, whatever the loss is made of: cross-entropy,
focal loss, two passes with other dropout.

Letters: B batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tunesmith.tasks import Example, Task
from tunesmith.tasks.engine import OUTPUTS

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "row_weights"
"""The key of a batch under which the weights of its rows stand (B)."""


@dataclass(frozen=True)
class WeighedTask:
    """A task that learns each row as much as its weight says. The loss that is reported is the plain one.

    Args:
        inner: Its loss compares no rows with each other.
        weights: By the id of the record, 0..1; of all others it is 1.
    """

    inner: Any
    weights: Mapping[str, float]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # asked for while the object is still being made or copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def configured(self, options: Mapping[str, Any]) -> WeighedTask:
        """Give the task with the options of the inner task set."""
        return dataclasses.replace(self, inner=self.inner.configured(options))

    def resolved(self, examples: Sequence[Example]) -> WeighedTask:
        """Give the task with the open options of the inner task decided."""
        return dataclasses.replace(self, inner=self.inner.resolved(examples))

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Give what the inner task gives, and the weights of the rows."""
        import torch

        weights = [self._weight_of(example) for example in examples]
        return {**self.inner.batch(examples, tokenizer), WEIGHTS: torch.tensor(weights)}

    def _weight_of(self, example: Example) -> float:
        """Give what an example counts; copies that augmentation made of a row (ROW~KIND) count as the row."""
        name = example.record.id if example.record else ""
        return self.weights.get(name, self.weights.get(name.rpartition("~")[0], 1.0))

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the units of the batch, however much each counts."""
        return float(self.inner.weight(_plain(batch)))

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss of the inner task; its gradient is that of the weighted one."""
        with weighing(model, batch[WEIGHTS]):
            found: torch.Tensor = self.inner.loss(model, _plain(batch))
        return found

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what a loss compares; the gradient at each row's logits is multiplied by its weight."""
        with weighing(model, batch[WEIGHTS]):
            found: tuple[torch.Tensor, torch.Tensor] = self.inner.labelled_logits(model, _plain(batch))
        return found


def weighed(task: Task, weights: Mapping[str, float]) -> Task:
    """Give the task with the weights of some of its rows; as it is where there are none."""
    return cast("Task", WeighedTask(task, weights)) if weights else task


def why_not(task: Any) -> str | None:
    """Give the reason why rows of this task cannot count less than others; None where they can."""
    if hasattr(task, "compare"):
        return "its loss compares rows with each other, so that there is no loss of one row to weigh"
    if hasattr(task, "as_logits"):
        return "a row is asked in words, in several passes"
    return None


@contextlib.contextmanager
def weighing(model: nn.Module, weights_B: torch.Tensor) -> Iterator[None]:
    """Multiply, for every pass inside, the gradient at each row of the model's outputs by the row's weight."""

    def scale(_: Any, __: Any, outputs: Any) -> None:
        for name in OUTPUTS:
            if name not in outputs or not outputs[name].requires_grad:
                continue
            rows, more = len(outputs[name]), outputs[name].dim() - 1
            # Texts that are encoded apart stand below each other: all first ones, then all second ones.
            weights = weights_B.repeat(rows // len(weights_B)).view(rows, *[1] * more)
            outputs[name].register_hook(lambda gradient, weights=weights: gradient * weights)

    hook = model.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


def _plain(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != WEIGHTS}
