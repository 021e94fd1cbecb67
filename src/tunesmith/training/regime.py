"""How a run learns, made from its plan: how a fill's gradient comes about, what is held back, what is averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import Anatomy
from tunesmith.training.adversarial import Adversary, FreeLargeBatch, ProjectedGradient
from tunesmith.training.averaging import Average
from tunesmith.training.learning import Learning, OnePass, WithBeside, criterion_of
from tunesmith.training.reptile import Reptile
from tunesmith.training.unfreezing import Unfreezing, level_count, stage_steps_of
from tunesmith.types import Plan


@dataclass(frozen=True)
class Regime:
    """What the loop asks at its turns; most runs have neither unfreezing nor an average."""

    learning: Learning
    unfreezing: Unfreezing | None = None
    average: Average | None = None

    @contextlib.contextmanager
    def holding(self, step: int, *, is_alone: bool) -> Iterator[None]:
        """Hold back what does not learn at this step (from 0)."""
        with self.unfreezing.holding(step, is_alone=is_alone) if self.unfreezing else contextlib.nullcontext():
            yield

    def before_update(self, step: int) -> None:
        """Take away gradients that this step (from 0) does not use."""
        if self.unfreezing is not None:
            self.unfreezing.drop(step)

    def after_update(self, step: int) -> None:
        """Take in the weights after this step (from 1)."""
        if self.average is not None:
            self.average.after_step(step)

    @contextlib.contextmanager
    def as_kept(self, step: int) -> Iterator[None]:
        """Give the model, for a while, the weights that would be kept if training ended after this step (from 1)."""
        with self.average.in_place(step) if self.average else contextlib.nullcontext():
            yield

    @property
    def settled_after(self) -> int:
        """The first step (from 1) whose weights may be the result."""
        return 0 if self.average is None else self.average.first


def make_learning(
    task: Any, options: Mapping[str, Any], model: nn.Module, beside: Callable[..., Any] | None = None
) -> Learning:
    """Give how a fill's gradient is made.

    Args:
        task: What is learnt.
        options: Of the plan.
        model: Not wrapped for several processes; adversarial training moves its embeddings.
        beside: A loss that is added to the task's own.
    """
    criterion, kind = criterion_of(task, options), options.get("adversarial", "none")
    criterion = criterion if beside is None else WithBeside(criterion, beside)
    if options.get("meta") == "reptile":
        if kind != "none":
            raise PlanProblem(
                f"reptile learns from where its own steps lead; adversarial '{kind}' has no place in them",
                where="adversarial",
                do="leave adversarial out, or use --set meta=prototypical",
            )
        return Reptile(task)
    if kind == "none":
        return OnePass(criterion)
    adversary = Adversary(criterion, model, float(options["adversarial_epsilon"]))
    steps = int(options["adversarial_steps"])
    if kind == "freelb":
        return FreeLargeBatch(adversary, steps)
    return ProjectedGradient(adversary, steps if kind == "pgd" else 1)


def make_regime(
    plan: Plan,
    task: Any,
    model: nn.Module,
    anatomy: Anatomy | None,
    *,
    epoch_steps: int,
    beside: Callable[..., Any] | None = None,
) -> Regime:
    """Make what the plan says; before the first step, while the trainable parameters are as the method left them.

    Args:
        plan: Its options; keys that it does not have are as if left out of the recipe.
        task: What is learnt.
        model: With the method applied.
        anatomy: Of the model; None only where the plan asks for nothing that needs it, as in pretraining.
        epoch_steps: Steps of one pass over the training rows.
        beside: A loss that is added to the task's own.
    """
    options = plan.options
    unfreezing, average = None, None
    if (how := str(options.get("unfreeze", "none"))) != "none":
        assert anatomy is not None
        levels = level_count(model, anatomy)
        stage_steps = stage_steps_of(how, levels=levels, steps=plan.steps, epoch_steps=epoch_steps)
        unfreezing = Unfreezing(model, anatomy, stage_steps=stage_steps)
    if (kind := str(options.get("averaging", "none"))) != "none":
        decay, share = float(options["ema_decay"]), float(options["swa_share"])
        average = Average(model, kind, steps=plan.steps, decay=decay, share=share)
    return Regime(make_learning(task, options, model, beside), unfreezing, average)
