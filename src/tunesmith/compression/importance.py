"""How much each channel and each head matters: what the loss would change by if it were taken away, to first order.

Letters: B batch, U units of a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.models.narrow import Units
from tunesmith.tasks import Example
from tunesmith.tasks.batching import fill, lengths_of


def importance(
    model: nn.Module,
    units: Sequence[Units],
    examples: Sequence[Example],
    *,
    task: Any,
    tokenizer: Any,
    batch_tokens: int = 2048,
) -> list[torch.Tensor]:
    """Give for each block how much each of its units matters (U): the sum over rows of |activation * gradient|.

    Each unit is multiplied by a number that is one; the gradient of the row's loss by that number is, to first order,
    what the loss changes by if the unit goes.

    Args:
        model: In evaluation mode; its gradients stay as they are.
        units: Of every block.
        examples: Labelled rows.
        task: Gives their loss.
        tokenizer: For the task.
        batch_tokens: Most tokens in the model at once.

    Source: Michel et al. 2019, equation 2 (heads); Molchanov et al. 2019, equation 8 without the square (channels).
    """
    totals = [torch.zeros(one.count, dtype=torch.float64) for one in units]
    device = next(model.parameters()).device
    with _masked(units) as masks, _frozen(model):
        for rows in fill(range(len(examples)), lengths_of(examples), batch_tokens):
            batch = task.batch([examples[row] for row in rows], tokenizer)
            masks.clear()
            loss = task.loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
            used = [place for place in range(len(units)) if place in masks]
            gradients = torch.autograd.grad(loss, [masks[place] for place in used])
            for place, gradient_BU in zip(used, gradients, strict=True):
                totals[place] += gradient_BU.abs().flatten(0, -2).sum(0).double().cpu()
    return totals


@contextlib.contextmanager
def _masked(units: Sequence[Units]) -> Iterator[dict[int, torch.Tensor]]:
    """Multiply the units of each block by ones for each row; give the ones (B, ..., U) of the last pass by block."""
    masks: dict[int, torch.Tensor] = {}

    def hook(place: int, one: Units) -> Any:
        def multiply(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            states = given[0]
            shape = (states.shape[0], *[1] * (states.dim() - 2), one.count)
            masks[place] = torch.ones(shape, dtype=states.dtype, device=states.device, requires_grad=True)
            return (states * masks[place].repeat_interleave(one.size, dim=-1), *given[1:])

        return one.down.register_forward_pre_hook(multiply)

    hooks = [hook(place, one) for place, one in enumerate(units)]
    try:
        yield masks
    finally:
        for one in hooks:
            one.remove()


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no weight ask for a gradient: only the ones do."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)
