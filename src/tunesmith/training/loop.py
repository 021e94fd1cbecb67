"""The training loop: one generator of Events. Printing, logging and stopping are done by whoever iterates.

Everything random is a function of the plan's seed and the step: the rows of a step (`tasks.batching`) and, by seeding
torch anew before each step, dropout. So a run that is resumed at a step goes on exactly as it would have.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from tunesmith.errors import Stopped, TrainingProblem
from tunesmith.methods import Upkeep
from tunesmith.metrics import goodness
from tunesmith.tasks import Example
from tunesmith.tasks.batching import epoch_steps, fill, steps_per_epoch
from tunesmith.training.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from tunesmith.types import Event, Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

_CALM = (
    "lower the learning rate (it is {:g}; try a third of it) or use --set mixed_precision=no; "
    "the last good checkpoint is kept"
)


class Objective(Protocol):
    """What the loop asks of whatever is learnt. A `Task` is one; so is masked-language modelling."""

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

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Tokens of each training example; what knows them without making each example says so itself."""
        known: list[int] | None = getattr(self.train, "lengths", None)
        return known if known is not None else [example.length for example in self.train]


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


def learning_rate_at(step: int, plan: Plan) -> float:
    """Give the rate of the step counted from 0: linear warm-up, then linear decay to zero at `plan.steps`."""
    peak = float(plan.options["learning_rate"])
    warmup = math.ceil(float(plan.options["warmup_ratio"]) * plan.steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(0.0, (plan.steps - step) / max(1, plan.steps - warmup))


def make_optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Make AdamW over the trainable parameters; biases and norms do not decay, the fresh head learns faster.

    Source: Loshchilov & Hutter 2019. The fused kernel does the same arithmetic in one pass over memory.
    """
    body = {id(parameter) for parameter in model.base_model.parameters()}
    factors = {True: 1.0, False: float(plan.options["head_learning_rate_factor"])}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = float(plan.options["weight_decay"]) if parameter.dim() > 1 else 0.0
            groups.setdefault((factors[id(parameter) in body], decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay, "factor": factor} for (factor, decay), group in groups.items()],
        lr=float(plan.options["learning_rate"]),
        fused=True,
    )


def training_events(
    plan: Plan,
    material: Material,
    folder: Path,
    accelerator: Accelerator,
    *,
    checkpoint: Checkpoint | None = None,
    stop_signal: Callable[[], int] = lambda: 0,
) -> Iterator[Event]:
    """Train until the last step or until validation stops improving; the best weights are in the model at the end.

    Args:
        plan: Steps, rates and seeds; nothing is decided here.
        material: Model, examples and task. The model is changed in place.
        folder: The run's `checkpoints`.
        accelerator: Places the model; one process, several, or mixed precision are its configuration.
        checkpoint: Where to go on from.
        stop_signal: Asked after every step; a number other than 0 (the signal's) saves and stops.

    Yields:
        "step" (loss, learning_rate), "evaluation" (validation scores, train_loss) and "checkpoint" events. Their
        `seconds` count from the start of the run, over all resumptions.

    Raises:
        TrainingProblem: A loss, gradient or answer was not finite; the last good checkpoint stays.
        MachineProblem: A checkpoint could not be written.
        Stopped: A signal came; everything up to the last step is saved.
    """
    model, optimizer = accelerator.prepare(material.model, make_optimizer(material.model, plan))
    bare, inner = accelerator.unwrap_model(model), getattr(optimizer, "optimizer", optimizer)
    progress = Progress()
    if checkpoint is not None:
        load_checkpoint(checkpoint, bare, inner)
        if accelerator.scaler is not None and checkpoint.state.get("scaler"):
            accelerator.scaler.load_state_dict(dict(checkpoint.state["scaler"]))
        progress = Progress(**{name: checkpoint.state[name] for name in Progress.__dataclass_fields__})
    started = saved = time.perf_counter()
    earlier = progress.seconds

    def event(kind: Any, values: Mapping[str, float] | None = None) -> Event:
        progress.seconds = earlier + time.perf_counter() - started
        return Event(kind, progress.seconds, progress.step, values or {})

    def save() -> Event:
        nonlocal saved
        done = event("checkpoint")
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            save_checkpoint(folder, bare, inner, {**vars(progress), "scaler": scaler})
        accelerator.wait_for_everyone()
        saved = time.perf_counter()
        return done

    steps = _steps_from(plan, material.lengths, progress.step)
    while not progress.is_over and (rows := next(steps, None)) is not None:
        loss = _step(plan, material, model, optimizer, accelerator, rows, progress.step)
        progress.step += 1
        progress.loss_sum += loss * len(rows)
        progress.loss_rows += len(rows)
        yield event("step", {"loss": loss, "learning_rate": learning_rate_at(progress.step - 1, plan)})
        is_evaluated = progress.step % int(plan.options["eval_steps"]) == 0 or progress.step == plan.steps
        if is_evaluated:
            yield event("evaluation", _evaluate(plan, material, bare, progress))
        is_due = time.perf_counter() - saved > float(plan.options["checkpoint_seconds"])
        signal_number, is_due, progress.is_over = _agree(accelerator, stop_signal(), is_due, progress.is_over)
        if is_evaluated or signal_number or is_due:
            yield save()
        if signal_number:
            raise Stopped(
                f"stopped by signal {signal_number} at step {progress.step} of {plan.steps}; all is saved",
                where=str(folder.parent),
                signal_number=signal_number,
            )
    if progress.best_step is not None and progress.best_step != progress.step:
        load_weights(folder, progress.best_step, bare)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()


def _agree(accelerator: Accelerator, signal_number: int, is_due: bool, is_over: bool) -> tuple[int, bool, bool]:
    """Let all processes take the same turn: what one of them has been told or has decided, all do at the same step."""
    if accelerator.num_processes == 1:
        return signal_number, is_due, is_over
    mine = torch.tensor([signal_number, int(is_due), int(is_over)], device=accelerator.device)
    largest = accelerator.gather(mine).view(-1, 3).amax(0).tolist()
    return int(largest[0]), bool(largest[1]), bool(largest[2])


def _steps_from(plan: Plan, lengths: Sequence[int], first: int) -> Iterator[list[int]]:
    """Yield the rows of every step from `first` (counted from 0) to the last of the plan."""
    batch_size = int(plan.options["batch_size"]) * int(plan.options["gradient_accumulation_steps"])
    each = steps_per_epoch(len(lengths), batch_size)
    for epoch in range(first // each, math.ceil(plan.steps / each)):
        steps = epoch_steps(lengths, batch_size, seed=plan.seed, epoch=epoch)
        yield from steps[max(0, first - epoch * each) : plan.steps - epoch * each]


def _step(
    plan: Plan,
    material: Material,
    model: nn.Module,
    optimizer: Any,
    accelerator: Accelerator,
    rows: list[int],
    step: int,
) -> float:
    """Make one optimiser update from `rows`; give the mean loss over them.

    Each process takes every n-th row, so that lengths stay balanced. The gradient is the mean over all units (rows, or
    predicted tokens) of the step, whatever the number of processes and of fills.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(_mix(plan.seed, step, rank))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, plan) * group["factor"]
    mine = rows[rank::world] or rows[:1]  # a process without a row still has to take part in the exchange
    share = 1.0 if rows[rank::world] else 0.0
    fills = fill(mine, material.lengths, int(plan.options["batch_tokens"]))
    batches = [material.task.batch([material.train[row] for row in part], material.tokenizer) for part in fills]
    mass = torch.tensor(share * sum(map(material.task.weight, batches)), device=accelerator.device)
    mass = max(float(accelerator.reduce(mass, "sum")), 1e-9) if world > 1 else max(float(mass), 1e-9)
    model.train()
    total = torch.zeros((), device=accelerator.device)
    for index, batch in enumerate(batches):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        is_last = index == len(fills) - 1
        with accelerator.autocast():
            loss = material.task.loss(model, batch) * share
        if is_last:
            accelerator.backward(loss * world / mass)
        else:
            with accelerator.no_sync(model):
                accelerator.backward(loss * world / mass)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), float(plan.options["max_grad_norm"]))
    mean = float(accelerator.reduce(total, "sum")) / mass
    _demand_finite(mean, norm, plan, step)
    if (upkeep := material.upkeep) is not None:
        upkeep.before_step(accelerator.unwrap_model(model))
    optimizer.step()
    if upkeep is not None:
        upkeep.after_step(accelerator.unwrap_model(model), step + 1, plan.steps)
    optimizer.zero_grad()
    return mean


def _demand_finite(loss: float, norm: Any, plan: Plan, step: int) -> None:
    # With fp16 an infinite gradient belongs to finding the loss scale (the step is skipped); elsewhere it is a fault.
    is_finite = math.isfinite(loss) and (plan.precision == "fp16" or norm is None or math.isfinite(float(norm)))
    if not is_finite:
        raise TrainingProblem(
            f"the loss is {loss:g} and the gradient norm {float(norm):g} at step {step + 1}",
            where=f"training step {step + 1} of {plan.steps}",
            do=_CALM.format(plan.options["learning_rate"]),
        )


def _mix(seed: int, step: int, rank: int) -> int:
    """Give a 63-bit seed for one step of one process; neighbouring steps share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:8], "little") >> 1


def _evaluate(plan: Plan, material: Material, model: nn.Module, progress: Progress) -> dict[str, float]:
    """Score the validation rows and note whether they are the best so far (ties go to the lower loss)."""
    model.eval()
    batch_tokens = int(plan.options["batch_tokens"])
    scores = material.task.evaluate(
        model, material.valid, tokenizer=material.tokenizer, labels=material.labels, batch_tokens=batch_tokens
    )
    selects_by = str(plan.options["select_by"])
    value, loss = goodness(selects_by, scores[selects_by]), scores["loss"]
    if not (math.isfinite(value) and math.isfinite(loss)):
        raise TrainingProblem(
            f"the model's answers on the validation rows are not finite after step {progress.step}",
            where=f"training step {progress.step} of {plan.steps}",
            do=_CALM.format(plan.options["learning_rate"]),
        )
    scores |= {"train_loss": progress.loss_sum / max(1, progress.loss_rows)}
    progress.loss_sum, progress.loss_rows = 0.0, 0
    if material.upkeep is not None and progress.step < material.upkeep.settled_after(plan.steps):
        return scores  # the method is not done with the model: these weights may not be the result
    if (value, -loss) > (progress.best_value, -progress.best_loss):
        progress.best_step, progress.best_value, progress.best_loss, progress.waited = progress.step, value, loss, 0
    else:
        progress.waited += 1
    progress.is_over = progress.waited >= int(plan.options["patience"])
    return scores | {"best": goodness(selects_by, progress.best_value)}
