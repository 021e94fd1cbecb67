"""A classification task learnt by comparing the rows of a step: likes move together, others apart.

What is compared is what the output layer reads. Every text of a step goes through the model once and is compared with
all others of the step.

Letters: N rows, B batch, T tokens, H hidden, L labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.metrics import Floats
from tunesmith.tasks import Example
from tunesmith.tasks.base import in_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

Self = TypeVar("Self", bound="ComparedTask")

TOGETHER = 2
"""Rows of one label that stand together in a step: each has one to move towards, and the step holds many labels."""

_TOGETHER_AT_MOST = 16
"""Rows of like length that go through the model at once: fewer cost more calls, more cost more padding."""

_FAR = -1e9  # the likeness of a row to itself, which is no choice


@dataclass
class _Ahead:
    """What is known of the fills of a step that are still to come: see `ComparedTask.looking_ahead`."""

    fills: list[tuple[Any, torch.Tensor, torch.Tensor]] = field(default_factory=list)  # chance, gradient, loss


@dataclass(frozen=True)
class ComparedTask:
    """A classification task whose loss compares the rows of a step. What is not said here is as the task itself has it.

    A subclass says how they are compared, and in which order they come.
    """

    inner: Any  # single-label, multi-label, or of two texts read at once

    _ahead: _Ahead = field(default_factory=_Ahead, repr=False, compare=False, kw_only=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # asked for while the object is still being made or copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def configured(self: Self, options: Mapping[str, Any]) -> Self:
        """Give the task with the options of the inner task set."""
        return dataclasses.replace(self, inner=self.inner.configured(options))

    def resolved(self: Self, examples: Sequence[Example]) -> Self:
        """Give the task with the open options of the inner task decided."""
        return dataclasses.replace(self, inner=self.inner.resolved(examples))

    def compare(self, states_NH: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Give the loss of the rows of a step, summed over them: a scalar.

        Args:
            states_NH: What the output layer reads of each.
            labels: As `batch` gives them.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say how rows are compared")

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss summed over the rows of the batch, or their share of that of the whole step."""
        if not self._ahead.fills:
            return self.compare(self._states(model, batch), batch["labels"])
        chance, gradient_BH, value = self._ahead.fills.pop(0)
        _put_chance(chance)
        states_BH = self._states(model, batch)
        slope = (
            states_BH * gradient_BH
        ).sum()  # its gradient is that of the whole step's loss; its value means nothing
        return slope + (value - slope).detach()

    @contextlib.contextmanager
    def looking_ahead(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, torch.Tensor]],
        computing: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> Iterator[None]:
        """Let `loss` compare the rows of all fills of a step with each other, though each goes through the model alone.

        A first pass without gradients finds the states of all rows and what the loss asks of each; `loss` then runs
        each fill again, with the same dropout. Memory is that of one fill, and the gradient that of the whole step.

        Args:
            model: In training mode.
            batches: The fills in the order in which `loss` will be asked.
            computing: The precision of a pass forward.

        Source: Gao et al. 2021 (GradCache).
        """
        import torch

        device = next(model.parameters()).device
        batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
        chances, parts = [], []
        for batch in batches:
            chances.append(_take_chance())
            with torch.no_grad(), computing():
                parts.append(self._states(model, batch))
        states_NH = torch.cat(parts).requires_grad_(True)
        labels = torch.cat([batch["labels"] for batch in batches])
        loss = self.compare(states_NH, labels)
        (gradient_NH,) = torch.autograd.grad(loss, states_NH)
        sizes = [len(part) for part in parts]
        values = [loss.detach() * size / len(states_NH) for size in sizes]
        self._ahead.fills = list(zip(chances, gradient_NH.split(sizes), values, strict=True))
        _put_chance(chances[0])
        try:
            yield
        finally:
            self._ahead.fills = []

    def _states(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give what the output layer reads of each row (B, H), float32.

        Rows of one step are of all lengths; those of like length go through the model together, without much padding.
        """
        import torch

        order_B, parts = _by_length(batch["attention_mask"])
        with reading(model) as seen:
            for rows in parts:
                tokens = int(batch["attention_mask"][rows].sum(1).max())
                self.inner.logits(model, {name: _cut(batch[name][rows], tokens) for name in batch if name != "labels"})
        return torch.cat(seen).float()[order_B.argsort()]


@dataclass(frozen=True)
class ContrastedTask(ComparedTask):
    """A classification task whose loss is contrastive."""

    contrast_temperature: float

    def epoch_steps(self, examples: Sequence[Example], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
        """Give the rows of each step of an epoch, so that a row has others of its label beside it."""
        return grouped_steps([example.target for example in examples], batch_size, seed=seed, epoch=epoch)

    def compare(self, states_NH: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Give the supervised contrastive loss."""
        return contrast(states_NH, alike(labels), self.contrast_temperature)


def _by_length(mask_BT: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Give the rows of a batch in order of length (B), and the same in parts that go through the model together."""
    order_B = mask_BT.sum(1).argsort(stable=True)
    return order_B, list(order_B.split(_TOGETHER_AT_MOST))


def _cut(rows_BT: torch.Tensor, tokens: int) -> torch.Tensor:
    """Give the first tokens of each row; texts are padded on the right."""
    return rows_BT[:, :tokens]


def grouped_steps(targets: Sequence[Any], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Give the rows of each step of an epoch: pairs of one label, in an order that seed and epoch decide.

    The rows of each label are shuffled and paired (the last three of an odd number stand together), the pairs are
    shuffled and dealt out. Every row stands in exactly one step, and every step but the last has `batch_size` rows.

    Args:
        targets: A label of each row, or several as a tuple.
        batch_size: Rows in a step.
        seed: Of the run.
        epoch: Counted from 0.
    """
    generator = random.Random(f"{seed}/{epoch}")
    rows_of: dict[Any, list[int]] = {}
    for row, target in enumerate(targets):
        rows_of.setdefault(target, []).append(row)
    groups: list[list[int]] = []
    for rows in rows_of.values():
        generator.shuffle(rows)
        first, even = len(groups), len(rows) // TOGETHER * TOGETHER
        groups += [rows[start : start + TOGETHER] for start in range(0, even, TOGETHER)]
        if len(groups) > first:
            groups[-1] = groups[-1] + rows[even:]
        else:
            groups.append(rows)
    generator.shuffle(groups)
    order = [row for group in groups for row in group]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def alike(labels: torch.Tensor) -> torch.Tensor:
    """Give how much the labels of two rows have in common (B, B), 0..1.

    Of one label each (B), 1 where it is the same; of several (B, L), the share of those that either has that both have.
    """
    if not labels.is_floating_point():
        return (labels.unsqueeze(1) == labels.unsqueeze(0)).float()
    both_BB = labels @ labels.T
    counts_B = labels.sum(1)
    either_BB = counts_B.unsqueeze(1) + counts_B.unsqueeze(0) - both_BB
    return both_BB / either_BB.clamp_min(1.0) + (either_BB == 0).float()  # two rows without a label are alike


def contrast(states_BH: torch.Tensor, alike_BB: torch.Tensor, temperature: float) -> torch.Tensor:
    """Give the supervised contrastive loss summed over the rows: a scalar; rows without a like have none.

    For each row, the mean over its likes of minus the logarithm of their share among all other rows, by cosine likeness
    divided by the temperature. Source: Khosla et al. 2020, equation 2 (the sum outside the logarithm), with weights
    where several labels may be shared in part.
    """
    import torch
    from torch.nn import functional

    points_BH = functional.normalize(states_BH.float(), dim=1)
    is_self_BB = torch.eye(len(points_BH), dtype=torch.bool, device=points_BH.device)
    likeness_BB = (points_BH @ points_BH.T / temperature).masked_fill(is_self_BB, _FAR)
    wanted_BB = alike_BB.masked_fill(is_self_BB, 0.0)
    masses_B = wanted_BB.sum(1)
    losses_B = -(likeness_BB.log_softmax(1) * wanted_BB).sum(1) / masses_B.clamp_min(1e-9)
    return losses_B.masked_fill(masses_B == 0, 0.0).sum()


@contextlib.contextmanager
def reading(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what the model's output layer reads while it runs: one tensor (B, H) for each call."""
    seen: list[Any] = []
    hook = head_layer(model).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


def head_states(
    model: nn.Module, examples: Sequence[Example], *, task: Any, tokenizer: Any, batch_tokens: int
) -> Floats:
    """Give what the model's output layer reads of each example (N, H), float64.

    Args:
        model: In evaluation mode, with a sequence head.
        examples: In any order of length.
        task: Makes batches and runs the model (`batch`, `logits`).
        tokenizer: For the task.
        batch_tokens: Most tokens in the model at once.
    """
    import numpy as np

    states: list[Any] = [None] * len(examples)

    def keep(rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        batch.pop("labels", None)
        with reading(model) as seen:
            task.logits(model, batch)
        for row, state_H in zip(rows, seen[0].double().cpu().numpy(), strict=True):
            states[row] = state_H

    in_batches(examples, keep, lambda some: task.batch(some, tokenizer), model=model, batch_tokens=batch_tokens)
    return np.stack(states)


def head_layer(model: nn.Module) -> nn.Linear:
    """Give the last linear layer of a sequence head: its outputs are the logits."""
    from torch import nn

    bare: Any = getattr(model, "module", model)
    head = [child for child in bare.children() if child is not bare.base_model]
    layer: nn.Linear = [part for child in head for part in child.modules() if isinstance(part, nn.Linear)][-1]
    return layer


def _take_chance() -> Any:
    """Give the state of chance, on the CPU and on the GPU if there is one."""
    import torch

    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None


def _put_chance(state: Any) -> None:
    import torch

    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
