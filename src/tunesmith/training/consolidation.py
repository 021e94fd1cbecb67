"""Hold weights where old answers depend on them: elastic weight consolidation with a diagonal Fisher, kept online.

`fisher.safetensors` in a bundle holds, for each trained tensor, how much the loss of the rows learnt so far bends where
it is moved: the mean over rows of the squared gradient. An update multiplies the old one by `MEMORY` and adds its own.

Sources: Kirkpatrick et al. 2017, equation 3; Schwarz et al. 2018, section 3.2, for the online form. The gradient is
that of the true label (the empirical Fisher), not of a drawn one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.errors import BundleProblem
from tunesmith.models.find import weight_files
from tunesmith.tasks import Example
from tunesmith.training.learning import Batch

FILE = "fisher.safetensors"
MEMORY = 0.9  # share of the old Fisher that stays when new rows were learnt
MOST_ROWS = 1000  # rows that tell enough of the diagonal


@dataclass(frozen=True)
class Consolidation:
    """Half of `weight` times the Fisher-weighted squared distance from the parent's weights, for each row."""

    folder: Path  # the parent's
    rows: Path  # where the Fisher lies if the parent does not hold it
    weight: float

    @functools.cached_property
    def _held(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Name of a parameter -> Fisher and the parent's values."""
        from safetensors.torch import load_file

        path = self.folder / FILE if (self.folder / FILE).is_file() else self.rows / FILE
        if not path.is_file():
            raise BundleProblem(
                "the run does not hold how much each weight matters",
                where=str(path),
                do="use --strategy replay; or ewc where the rows it learnt from are still there",
            )
        values: dict[str, torch.Tensor] = {}
        for weights in weight_files(self.folder):
            values |= load_file(weights)
        fisher = load_file(path)
        return {name: (fisher[name].float(), values[name].float()) for name in fisher if name in values}

    def __call__(self, model: nn.Module, batch: Batch, seen: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Give the loss, times the rows of the batch: the task's own is a sum over them too."""
        rows = len(next(iter(batch.values())))
        total = torch.zeros((), device=next(model.parameters()).device)
        for name, parameter in model.named_parameters():
            if name not in self._held or not parameter.requires_grad:
                continue
            fisher, old = (tensor.to(parameter.device) for tensor in self._held[name])
            now = parameter[: len(old)] if parameter.shape != old.shape else parameter  # a head that has grown
            if now.shape == old.shape:
                total = total + (fisher * (now - old) ** 2).sum()
        return self.weight / 2 * rows * total


def measure_fisher(
    model: nn.Module, task: Any, examples: Sequence[Example], tokenizer: Any, *, before: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """Give the diagonal of the Fisher for each parameter, as float32 tensors of its shape.

    Args:
        model: As it was learnt; left as it is.
        task: Whose loss bends.
        examples: Encoded rows with targets; at most `MOST_ROWS` of them are used, evenly spaced.
        tokenizer: Of the model.
        before: The Fisher so far, of which a share stays; its tensors may have fewer rows (a head that has grown).
    """
    step = max(1.0, len(examples) / MOST_ROWS)
    chosen = [examples[int(place * step)] for place in range(min(MOST_ROWS, len(examples)))]
    chosen = [example for example in chosen if example.target is not None]
    freed = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.eval().requires_grad_(True)
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    device = next(model.parameters()).device
    for example in chosen:
        batch = {name: tensor.to(device) for name, tensor in task.batch([example], tokenizer).items()}
        model.zero_grad(set_to_none=True)
        task.loss(model, batch).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.detach() ** 2
    model.zero_grad(set_to_none=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(freed[name])
    found = {name: tensor / max(1, len(chosen)) for name, tensor in total.items()}
    for name, old in (before or {}).items():
        if name in found and found[name].shape[1:] == old.shape[1:] and len(old) <= len(found[name]):
            found[name][: len(old)] += MEMORY * old.float()
    return {name: tensor.cpu().contiguous() for name, tensor in found.items()}
