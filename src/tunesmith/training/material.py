"""What the loop works on: what is learnt, the model, and the examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from tunesmith.methods import Upkeep
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Example
from tunesmith.tasks.batching import lengths_of
from tunesmith.training.stopwatch import Stopwatch


class Objective(Protocol):
    """What the loop asks of whatever is learnt. A `Task` is one; so is masked-language modelling.

    One that compares rows with each other may also have:

    - `epoch_steps(examples, batch_size, seed=, epoch=) -> rows of each step`, an order of its own (else by length),
      with `steps_per_epoch` steps;
    - `looking_ahead(model, batches, computing)`, a context around the fills of a step that is made of several.
    """

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Make tensors of examples. Chance comes from torch's generator, which is seeded for each step."""

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the number of units (rows, or predicted tokens) that the loss of the batch is the sum of."""

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss summed over the units of the batch: a scalar."""

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give the mean `loss` and the metric that the plan selects by, without chance."""


@dataclass(frozen=True)
class Material:
    """What the loop works on; all of it is fixed before the first step."""

    task: Objective
    model: nn.Module
    tokenizer: Any
    train: Sequence[Example]
    valid: Sequence[Example]
    labels: Sequence[str] = ()
    upkeep: Upkeep | None = None  # what the method does between steps
    anatomy: Anatomy | None = None  # of the model; a plan that rates or frees it block by block needs it
    watch: Stopwatch = field(default_factory=Stopwatch)  # where the time goes
    before_evaluation: Callable[[nn.Module, Any], None] | None = None  # what the method does to the model and this
    beside: Callable[..., Any] | None = None  # a loss that is added to the task's own, see `going_on`

    @functools.cached_property
    def lengths(self) -> Sequence[int]:
        """Tokens of each training example."""
        return lengths_of(self.train)

    @property
    def own_order(self) -> Callable[..., list[list[int]]] | None:
        """What orders the rows instead of their lengths; None for most."""
        own = getattr(self.task, "epoch_steps", None)
        return None if own is None else functools.partial(own, self.train)
