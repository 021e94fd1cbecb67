"""Several models as one that shares a body, and what the one loop asks of what they learn together.

Letters: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.metrics import goodness
from tunesmith.tasks import Example
from tunesmith.tasks.batching import lengths_of
from tunesmith.training.multi_task.mixture import Mixture

WHICH = "which_task"
"""The key of a batch under which the number of its task stands."""

SCORE = "mean_score"
"""What the shared training selects by: the mean over the tasks of what each selects by."""


class SharedBody(nn.Module):  # type: ignore[misc]
    """Models with heads of their own whose bodies are the same modules.

    Args:
        models: By the name of the task, as `build_model` gives them, of one base. The parts of the first body (its
            embeddings, its blocks, its pooler) take the place of the others' parts of the same name.

    Raises:
        PlanProblem: A model has no head of its own, or parts that do not fit the others'.
    """

    def __init__(self, models: Mapping[str, Any]) -> None:
        super().__init__()
        self.shared = nn.ModuleDict()
        for name, model in models.items():
            body = model.base_model
            if body is model or any(True for _ in body.parameters(recurse=False)):
                raise _unfit(name, f"{type(model).__name__} has no body that others could share")
            for part, module in list(body.named_children()):
                if part not in self.shared:
                    self.shared[part] = module
                elif _shapes(self.shared[part]) != _shapes(module):
                    raise _unfit(name, f"its {part} has other shapes than that of the tasks before it")
                else:
                    setattr(body, part, self.shared[part])
        self.members = nn.ModuleList(models.values())

    @property
    def base_model(self) -> nn.ModuleDict:
        """What all share; the rest are heads."""
        return self.shared

    def forward(self, **_: Any) -> Any:
        """Refuse: each task asks its own member."""
        raise NotImplementedError("a shared body is asked through the model of a task")


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]


def _unfit(name: str, reason: str) -> PlanProblem:
    return PlanProblem(
        f"task '{name}' cannot share a body: {reason}", where=f"tasks: {name}", do="train it by itself: tunesmith train"
    )


@dataclass(frozen=True)
class Numbered:
    """An example that knows its task."""

    which: int
    example: Example

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return self.example.length


class Joined(Sequence[Numbered]):
    """The examples of all tasks, one task after the other; made when they are asked for."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self.parts = parts
        self.lengths = [length for part in parts for length in lengths_of(part)]
        self._owner = [which for which, part in enumerate(parts) for _ in range(len(part))]
        self._start = [sum(len(part) for part in parts[:which]) for which in range(len(parts))]

    def __len__(self) -> int:
        return len(self._owner)

    @overload
    def __getitem__(self, place: int) -> Numbered: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Numbered]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        which = self._owner[place]
        return Numbered(which, self.parts[which][place - self._start[which]])

    def __iter__(self) -> Iterator[Numbered]:
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True)
class Part:
    """One of the tasks that are learnt together."""

    name: str
    task: Any
    tokenizer: Any
    labels: Sequence[str]
    valid: Sequence[Example]
    selects_by: str


@dataclass(frozen=True)
class SharedObjective:
    """What the loop learns: every step, the loss of one task. See `training.material.Objective`."""

    parts: Sequence[Part]
    mixture: Mixture

    def epoch_steps(self, examples: Sequence[Any], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
        """Give the rows of each step: of one task, the tasks in turns."""
        return self.mixture.epoch(batch_size, seed=seed, epoch=epoch)

    def batch(self, examples: Sequence[Any], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Make tensors of examples of one task, with its number."""
        which = examples[0].which
        assert all(one.which == which for one in examples), "a step is of one task"
        part = self.parts[which]
        found = part.task.batch([one.example for one in examples], part.tokenizer)
        return {**found, WHICH: torch.tensor(which)}

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the units of the batch, as its task counts them."""
        part, rest = self._of(batch)
        return float(part.task.weight(rest))

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss of the batch's task, summed over its units: a scalar."""
        part, rest = self._of(batch)
        found: torch.Tensor = part.task.loss(model.members[int(batch[WHICH])], rest)
        return found

    def evaluate(
        self, model: Any, examples: Sequence[Any], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give the mean of what each task selects by, the mean loss, and both of each task by its name."""
        scores: dict[str, float] = {}
        for member, part in zip(model.members, self.parts, strict=True):
            settings = {"tokenizer": part.tokenizer, "labels": part.labels, "batch_tokens": batch_tokens}
            found = part.task.evaluate(member, part.valid, **settings)
            scores[f"{part.name}.{part.selects_by}"] = found[part.selects_by]
            scores[f"{part.name}.loss"] = found["loss"]
        each = [goodness(part.selects_by, scores[f"{part.name}.{part.selects_by}"]) for part in self.parts]
        losses = [scores[f"{part.name}.loss"] for part in self.parts]
        return {SCORE: sum(each) / len(each), "loss": sum(losses) / len(losses), **scores}

    def _of(self, batch: Mapping[str, torch.Tensor]) -> tuple[Part, dict[str, torch.Tensor]]:
        rest = {name: tensor for name, tensor in batch.items() if name != WHICH}
        return self.parts[int(batch[WHICH])], rest
