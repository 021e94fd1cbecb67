"""The training loop: one generator of Events. Printing, logging and stopping are done by whoever iterates.

Everything random is a function of the plan's seed and the step: the rows of a step (`tasks.batching`) and, by seeding
torch anew before each step, dropout. So a run that is resumed at a step goes on exactly as it would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.errors import Stopped, TrainingProblem
from tunesmith.metrics import goodness
from tunesmith.tasks.batching import epoch_steps, fill, steps_per_epoch
from tunesmith.training.checkpoint import Checkpoint, newest_whole
from tunesmith.training.desk import Desk, Progress, keep, lay_out, settle, take_up
from tunesmith.training.learning import Fill, OnePass
from tunesmith.training.material import Material
from tunesmith.training.processes import found_by_first, is_loss_of_process, process_lost, with_all_threads
from tunesmith.training.room import with_room
from tunesmith.training.schedules import learning_rate_at
from tunesmith.training.sharding import whole
from tunesmith.types import Event, Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

_CALM = (
    "lower the learning rate (it is {:g}; try a third of it) or use --set mixed_precision=no; "
    "the last good checkpoint is kept"
)


def training_events(
    plan: Plan,
    material: Material,
    folder: Path,
    accelerator: Accelerator,
    *,
    checkpoint: Checkpoint | None = None,
    stop_signal: Callable[[], int] = lambda: 0,
    is_time_up: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train until the last step or until validation stops improving; the best weights are in the model at the end.

    Args:
        plan: Steps, rates and seeds; nothing is decided here.
        material: Model, examples and task. The model is changed in place.
        folder: The run's `checkpoints`.
        accelerator: Places the model; one process, several, or mixed precision are its configuration.
        checkpoint: Where to go on from.
        stop_signal: Asked after every step; a number other than 0 (the signal's) saves and stops.
        is_time_up: Asked after every step; when it is, the validation rows are scored once more and training ends.

    Yields:
        "step" (loss, learning_rate), "evaluation" (validation scores, train_loss) and "checkpoint" events. Their
        `seconds` count from the start of the run, over all resumptions.

    Raises:
        TrainingProblem: A loss, gradient or answer was not finite; the last good checkpoint stays.
        MachineProblem: A checkpoint could not be written.
        ProcessLost: Another process of the run is gone; everything up to the last step is saved.
        Stopped: A signal came; everything up to the last step is saved.
    """
    desk = lay_out(plan, material, accelerator, stop_signal)
    progress = Progress()
    if checkpoint is not None:
        progress = take_up(desk, checkpoint)
    try:
        yield from _turns(desk, progress, folder, is_time_up)
    except RuntimeError as error:
        if not is_loss_of_process(error):
            raise
        # No exchange between processes lies within an update: the weights are those after the last whole step.
        saved, _ = newest_whole(folder)
        is_newer = progress.step > (0 if saved is None else saved.step)
        if is_newer and not desk.is_sharded:
            keep(desk, progress, folder)
        if number := desk.stop_signal():
            raise _stopped(number, progress, desk, folder) from error
        raise process_lost(folder.parent, progress.step, plan.steps) from error
    settle(desk, progress, folder)
    accelerator.unwrap_model(desk.model, keep_fp32_wrapper=False).eval()


def _turns(desk: Desk, progress: Progress, folder: Path, is_time_up: Callable[[], bool]) -> Iterator[Event]:
    """Take step after step, with evaluations and checkpoints between them."""
    plan, material, accelerator = desk.plan, desk.material, desk.accelerator
    started = saved = time.perf_counter()
    earlier, saved_step = progress.seconds, progress.step

    def event(kind: Any, values: Mapping[str, float] | None = None) -> Event:
        progress.seconds = earlier + time.perf_counter() - started
        return Event(kind, progress.seconds, progress.step, values or {})

    def save() -> Event:
        nonlocal saved, saved_step
        done = event("checkpoint")
        with material.watch("checkpoints"):
            keep(desk, progress, folder)
        accelerator.wait_for_everyone()
        saved, saved_step = time.perf_counter(), progress.step
        return done

    steps = _steps_from(plan, material.lengths, progress.step, material.own_order)
    while not progress.is_over and (rows := next(steps, None)) is not None:
        fitted = progress.fill_tokens
        loss = _step(desk, rows, progress)
        if progress.fill_tokens != fitted:
            text = (
                f"memory ran out: from here on {progress.fill_tokens:,} tokens at a time, and the same rows in a step"
            )
            yield dataclasses.replace(event("note"), text=text)
        is_evaluated = False
        if loss is not None:
            progress.step += 1
            progress.loss_sum += loss * len(rows)
            progress.loss_rows += len(rows)
            yield event("step", {"loss": loss, "learning_rate": learning_rate_at(progress.step - 1, plan)})
            is_last = progress.step == plan.steps or is_time_up()
            is_evaluated = is_last or progress.step % int(plan.options["eval_steps"]) == 0
        if is_evaluated:
            with material.watch("evaluation"), desk.regime.as_kept(progress.step):
                scores = _evaluate(desk, progress)
            yield event("evaluation", scores)
            progress.is_over |= is_last
        is_due = time.perf_counter() - saved > float(plan.options["checkpoint_seconds"])
        signal_number, is_due, progress.is_over = _agree(accelerator, desk.stop_signal(), is_due, progress.is_over)
        if is_evaluated or ((signal_number or is_due) and saved_step != progress.step):
            yield save()
        if signal_number:
            raise _stopped(signal_number, progress, desk, folder)


def _stopped(number: int, progress: Progress, desk: Desk, folder: Path) -> Stopped:
    return Stopped(
        f"stopped by signal {number} at step {progress.step} of {desk.plan.steps}; all is saved",
        where=str(folder.parent),
        signal_number=number,
    )


def _agree(accelerator: Accelerator, signal_number: int, is_due: bool, is_over: bool) -> tuple[int, bool, bool]:
    """Let all processes take the same turn: what one of them has been told or has decided, all do at the same step."""
    if accelerator.num_processes == 1:
        return signal_number, is_due, is_over
    mine = torch.tensor([signal_number, int(is_due), int(is_over)], device=accelerator.device)
    largest = accelerator.gather(mine).view(-1, 3).amax(0).tolist()
    return int(largest[0]), bool(largest[1]), bool(largest[2])


def _steps_from(
    plan: Plan, lengths: Sequence[int], first: int, order: Callable[..., list[list[int]]] | None = None
) -> Iterator[list[int]]:
    """Yield the rows of every step from `first` (counted from 0) to the last of the plan."""
    batch_size = int(plan.options["batch_size"]) * int(plan.options["gradient_accumulation_steps"])
    each = steps_per_epoch(len(lengths), batch_size)
    for epoch in range(first // each, math.ceil(plan.steps / each)):
        chance = {"seed": plan.seed, "epoch": epoch}
        steps = epoch_steps(lengths, batch_size, **chance) if order is None else order(batch_size, **chance)
        yield from steps[max(0, first - epoch * each) : plan.steps - epoch * each]


def _step(desk: Desk, rows: list[int], progress: Progress) -> float | None:
    """Make one optimiser update from `rows`; give the mean loss over them, or None where a signal came before it.

    Each process takes every n-th row, so that lengths stay balanced. The gradient is the mean over all units (rows, or
    predicted tokens) of the step, whatever the number of processes and of fills.
    """
    plan, material, accelerator, step = desk.plan, desk.material, desk.accelerator, progress.step
    rank, world = accelerator.process_index, accelerator.num_processes
    for group in desk.optimizer.param_groups:
        group["lr"] = learning_rate_at(step, plan) * group["factor"]
    mine = rows[rank::world] or rows[:1]  # a process without a row still has to take part in the exchange
    share = 1.0 if rows[rank::world] else 0.0
    material.watch.tokens += sum(material.lengths[row] for row in mine)

    def learn(tokens: int) -> tuple[torch.Tensor | None, float]:
        torch.manual_seed(_mix(plan.seed, step, rank))
        with material.watch("batches"):
            fills = fill(mine, material.lengths, tokens)
            batches = [material.task.batch([material.train[row] for row in part], material.tokenizer) for part in fills]
        mass = torch.tensor(share * sum(map(material.task.weight, batches)), device=accelerator.device)
        mass = max(float(accelerator.reduce(mass, "sum")), 1e-9) if world > 1 else max(float(mass), 1e-9)
        desk.model.train()
        held = desk.regime.holding(step, is_alone=desk.is_alone)
        with material.watch("forward"), held, _looking_ahead(desk, batches):
            return _add_gradients(desk, batches, share=share, mass=mass), mass

    total, mass = with_room(desk, progress, mine, learn)
    if total is None:
        desk.optimizer.zero_grad()
        return None
    mean = float(accelerator.reduce(total, "sum")) / mass
    with material.watch("update"):
        _update(desk, mean, step)
    return mean


def _looking_ahead(desk: Desk, batches: Sequence[Mapping[str, torch.Tensor]]) -> contextlib.AbstractContextManager[Any]:
    """Let what compares rows with each other see all fills of a step first; not where a fill takes several passes."""
    ahead = getattr(desk.material.task, "looking_ahead", None)
    if ahead is None or len(batches) < 2 or not isinstance(desk.regime.learning, OnePass):
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[Any] = ahead(desk.model, batches, desk.accelerator.autocast)
    return found


def _add_gradients(
    desk: Desk, batches: Sequence[Mapping[str, torch.Tensor]], *, share: float, mass: float
) -> torch.Tensor | None:
    """Run all fills of a step; give their summed loss, or None where a signal came between two of them."""
    accelerator, world = desk.accelerator, desk.accelerator.num_processes

    def backward(loss: torch.Tensor) -> None:
        with desk.material.watch("backward"):
            accelerator.backward(loss * share * world / mass)

    def apart() -> contextlib.AbstractContextManager[Any]:
        held: contextlib.AbstractContextManager[Any] = accelerator.no_sync(desk.model)
        return held

    total = torch.zeros((), device=accelerator.device)
    for index, batch in enumerate(batches):
        # What others wait for must not be broken off; they and we hear the signal after the step.
        if index and desk.is_alone and desk.stop_signal():
            return None
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with contextlib.nullcontext() if index == len(batches) - 1 else apart():
            one = Fill(desk.model, batch, backward, accelerator.autocast, apart)
            total += desk.regime.learning.learn(one) * share
    return total


def _update(desk: Desk, loss: float, step: int) -> None:
    """Clip the gradients, check the numbers, and let optimiser, method and average take the step (from 0)."""
    plan, upkeep = desk.plan, desk.material.upkeep
    desk.regime.before_update(step)
    norm = desk.accelerator.clip_grad_norm_(desk.model.parameters(), float(plan.options["max_grad_norm"]))
    norm = None if norm is None else whole(norm)
    _demand_finite(loss, norm, plan, step)
    if upkeep is not None:
        upkeep.before_step(desk.bare)
    desk.optimizer.step()
    if upkeep is not None:
        upkeep.after_step(desk.bare, step + 1, plan.steps)
    desk.optimizer.zero_grad()
    desk.regime.after_update(step + 1)


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


def _evaluate(desk: Desk, progress: Progress) -> dict[str, float]:
    """Score the validation rows and note whether they are the best so far (ties go to the lower loss)."""
    plan, material = desk.plan, desk.material
    desk.bare.eval()
    batch_tokens = progress.fill_tokens or int(plan.options["batch_tokens"])
    if material.before_evaluation is not None:
        material.before_evaluation(desk.bare, material)

    def score() -> dict[str, float]:
        with with_all_threads(plan):
            return material.task.evaluate(
                desk.bare,
                material.valid,
                tokenizer=material.tokenizer,
                labels=material.labels,
                batch_tokens=batch_tokens,
            )

    # Where each process has a share of the model, no one can answer alone.
    scores = score() if desk.is_sharded else found_by_first(desk.accelerator, score)
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
    settled_after = 0 if material.upkeep is None else material.upkeep.settled_after(plan.steps)
    if progress.step < max(settled_after, desk.regime.settled_after):
        return scores  # method or regime are not done with the model: these weights may not be the result
    if (value, -loss) > (progress.best_value, -progress.best_loss):
        progress.best_step, progress.best_value, progress.best_loss, progress.waited = progress.step, value, loss, 0
    else:
        progress.waited += 1
    progress.is_over = progress.waited >= int(plan.options["patience"])
    return scores | {"best": goodness(selects_by, progress.best_value)}
