"""What every step of a run works with and where the run stands, and how both go into a checkpoint and come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training.checkpoint import Checkpoint, load_average, load_checkpoint, load_weights, save_checkpoint
from tunesmith.training.material import Material
from tunesmith.training.optimizers import make_optimizer
from tunesmith.training.regime import Regime, make_regime
from tunesmith.training.sharding import is_sharded
from tunesmith.types import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Progress:
    """Where a run stands. Everything that a checkpoint needs besides tensors."""

    step: int = 0
    best_step: int | None = None
    best_value: float = -1e308  # larger is better, whatever the metric; JSON has no infinities
    best_loss: float = 1e308
    waited: int = 0  # evaluations since the best one
    is_over: bool = False  # stopped early
    loss_sum: float = 0.0  # over the rows seen since the last evaluation, each step's mean loss times its rows
    loss_rows: int = 0
    seconds: float = 0.0  # spent training, over all resumptions
    fill_tokens: int = 0  # that fit into memory at once, where the plan's `batch_tokens` did not; 0: they do


@dataclass(frozen=True)
class Desk:
    """What every step works with."""

    plan: Plan
    material: Material
    regime: Regime
    model: nn.Module  # as the accelerator has wrapped it
    bare: nn.Module
    optimizer: Any
    accelerator: Accelerator
    stop_signal: Callable[[], int]

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process of the run."""
        return bool(self.accelerator.num_processes == 1)

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds a share of the model only."""
        return is_sharded(self.plan)

    @property
    def inner(self) -> Any:
        """The optimiser that the accelerator has wrapped."""
        return getattr(self.optimizer, "optimizer", self.optimizer)


def lay_out(plan: Plan, material: Material, accelerator: Accelerator, stop_signal: Callable[[], int]) -> Desk:
    """Make optimiser and regime, and place the model where it learns."""
    optimizer = make_optimizer(material.model, plan, material.anatomy)
    if is_sharded(plan):  # it is wrapped already, part by part
        model, optimizer = material.model, accelerator.prepare(optimizer)
    else:
        model, optimizer = accelerator.prepare(material.model, optimizer)
    bare = accelerator.unwrap_model(model)
    batch_size = int(plan.options["batch_size"]) * int(plan.options["gradient_accumulation_steps"])
    each = steps_per_epoch(len(material.lengths), batch_size)
    regime = make_regime(plan, material.task, bare, material.anatomy, epoch_steps=each, beside=material.beside)
    return Desk(plan, material, regime, model, bare, optimizer, accelerator, _latched(stop_signal))


def take_up(desk: Desk, checkpoint: Checkpoint) -> Progress:
    """Put everything back as it was when the checkpoint was saved."""
    load_checkpoint(checkpoint, desk.bare, desk.inner)
    if desk.regime.average is not None:
        desk.regime.average.load(load_average(checkpoint.folder.parent, checkpoint.step))
    if desk.accelerator.scaler is not None and checkpoint.state.get("scaler"):
        desk.accelerator.scaler.load_state_dict(dict(checkpoint.state["scaler"]))
    state = checkpoint.state
    return Progress(**{name: state[name] for name in Progress.__dataclass_fields__ if name in state})


def keep(desk: Desk, progress: Progress, folder: Path) -> None:
    """Save a checkpoint of all that stands here: the first process does, and others help where each has a share."""
    is_writer = desk.accelerator.is_main_process
    if not (is_writer or desk.is_sharded):
        return
    scaler = desk.accelerator.scaler.state_dict() if desk.accelerator.scaler is not None else None
    average = None if desk.regime.average is None else desk.regime.average.mean
    state = {**vars(progress), "scaler": scaler}
    save_checkpoint(folder, desk.bare, desk.inner, state, average=average, is_writer=is_writer)


def settle(desk: Desk, progress: Progress, folder: Path) -> None:
    """Leave the best weights in the model; the averaged ones where the run averages."""
    is_other = progress.best_step is not None and progress.best_step != progress.step
    if is_other:
        load_weights(folder, progress.best_step or 0, desk.bare)
    if desk.regime.average is not None:
        if is_other:
            desk.regime.average.load(load_average(folder, progress.best_step or 0))
        desk.regime.average.settle(progress.best_step or progress.step)


def _latched(stop_signal: Callable[[], int]) -> Callable[[], int]:
    """Give what remembers a signal once it was heard: a step that was broken off for it must not be passed over."""
    heard = 0

    def ask() -> int:
        nonlocal heard
        heard = heard or stop_signal()
        return heard

    return ask
