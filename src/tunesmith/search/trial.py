"""One trial of a sweep: a training run that reports each evaluation, and may be given up early.

Its folder is named after its plan, so a trial that was cut off goes on from its own checkpoint when it is tried again,
and what is tried twice is trained once.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST
from tunesmith.errors import MachineProblem, Stopped, TunesmithError
from tunesmith.metrics import goodness
from tunesmith.search.study import Failed, Record, Trial, best_of
from tunesmith.training import folder as run_folder
from tunesmith.training.job import Job
from tunesmith.training.memo import Memo
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import Recipe
from tunesmith.types import Event

if TYPE_CHECKING:
    import optuna

TIME = "the time is over"
WHOLE_TRIALS = 4  # that are trained to their end before any is given up: one early lead says little
STATES = "states"  # of frozen blocks, beside the trials: all that freeze the same blocks share them
ENCODED = "encoded"  # rows as token ids, where they are too many for memory


@dataclass
class Trainer:
    """What every trial of this process is made with."""

    recipe: Recipe  # of all trials, but for what varies
    record: Record
    memo: Memo  # rows, encoded texts and the base model, shared by all trials
    folder: Path  # where the trials' run folders lie
    most_epochs: float  # that a trial may have: what a share of the longest training is counted in
    stop_signal: Callable[[], int]
    on_event: Callable[[Event], None]
    deadline: float = float("inf")  # by `time.monotonic`

    def __call__(self, trial: optuna.Trial) -> float:
        """Train with the settings that are drawn; give the goodness of the best evaluation.

        Raises:
            Failed: These settings cannot be trained: refused, not finite, or out of memory.
            optuna.TrialPruned: Others did better after as much training, or the time is over.
            Stopped: A signal came; the trial can go on from its checkpoint.
        """
        trial.set_user_attr("owner", self.record.owner)
        started = time.perf_counter()
        try:
            return self._train(trial)
        except (Stopped, MachineProblem):
            raise  # no fault of the settings
        except TunesmithError as error:
            trial.set_user_attr("reason", error.what)
            raise Failed(error.what) from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            trial.set_user_attr("reason", "out of memory")
            raise Failed("out of memory") from error
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - started, 3))

    def _train(self, trial: optuna.Trial) -> float:
        recipe = dataclasses.replace(self.recipe, **self.record.space.draw(trial))
        job = prepare(recipe, memo=self.memo, encoded=self.folder / ENCODED)
        run = job.plan.id
        if twin := self._twin(run):
            for name, value in (("run", run), ("loss", twin.loss), ("share", twin.share)):
                trial.set_user_attr(name, value)
            trial.set_user_attr("reason", f"the same as trial {twin.number}")
            assert twin.value is not None
            return goodness(self.record.metric, twin.value)
        trial.set_user_attr("run", run)
        follower = _Follower(self, trial, job.plan.steps, self._hundredths(job))
        job = self._opened(job, run, follower)
        job.states_folder, job.encoded_folder = self.folder / STATES, self.folder / ENCODED
        for event in job.learn(self.stop_signal):
            self.on_event(event)
            follower.take(event)
            if time.monotonic() > self.deadline:
                follower.give_up(TIME)
        return follower.best[0]

    def _twin(self, run: str) -> Trial | None:
        """Give a complete trial of the same plan, which would train to the same weights."""
        return next((one for one in self.record.trials() if one.run == run and one.state == "complete"), None)

    def _hundredths(self, job: Job) -> float:
        """Give how many hundredths of the longest training one step of this trial is."""
        return 100 * float(job.plan.options["epochs"]) / max(1, job.plan.steps) / self.most_epochs

    def _opened(self, job: Job, run: str, follower: _Follower) -> Job:
        """Give the job with its folder; one that was cut off goes on, and what it had reported is reported again."""
        folder = self.folder / run
        if not (folder / "plan.json").is_file():
            job.recipe = dataclasses.replace(job.recipe, out=str(folder))
            return job
        job = prepare_resume(folder, memo=self.memo)
        if job.resumed_from is not None:
            for event in run_folder.Log(folder).read():
                if event.step <= job.resumed_from.step:
                    follower.take(event, may_give_up=False)
        return job


@dataclass
class _Follower:
    """Reports a trial's evaluations to the database."""

    trainer: Trainer
    trial: optuna.Trial
    steps: int
    hundredths: float  # of the longest training, for each step
    best: tuple[float, float] = (-1e308, -1e308)  # goodness, and minus the loss beside it

    def take(self, event: Event, *, may_give_up: bool = True) -> None:
        """Take in one event; after an evaluation the trial may be given up."""
        if event.kind != "evaluation":
            return
        metric = self.trainer.record.metric
        reached = goodness(metric, event.values[metric]), -event.values.get("loss", 0.0)
        if "best" in event.values:  # else the method is not done with the model, and this cannot be the result
            self.best = max(self.best, reached)
        self.trial.set_user_attr("share", round(event.step / max(1, self.steps), 4))
        self.trial.set_user_attr("loss", -max(self.best, reached)[1])
        self.trial.report(reached[0], max(1, round(self.hundredths * event.step)))
        is_behind = self.trial.should_prune()  # asked each time: it also notes how far this trial came
        if is_behind and may_give_up and event.step < self.steps and self._may_be_judged():
            self.give_up("others did better after as much training")

    def _may_be_judged(self) -> bool:
        """Whether enough trials were trained to their end for a short piece of this one to say something."""
        return sum(trial.state == "complete" for trial in self.trainer.record.trials()) >= WHOLE_TRIALS

    def give_up(self, reason: str) -> None:
        """End the trial here."""
        import optuna

        self.trial.set_user_attr("reason", reason)
        raise optuna.TrialPruned(reason)


def clear(record: Record, folder: Path) -> None:
    """Remove the checkpoints of trials that are over, but for the best: no more than one is kept."""
    trials = record.trials()
    best = best_of(trials, record.metric)
    busy = {trial.run for trial in trials if trial.state in {"running", "waiting"}} | {best.run if best else ""}
    for trial in trials:
        if trial.run and trial.run not in busy and not (folder / trial.run / MANIFEST).is_file():
            shutil.rmtree(folder / trial.run / unfinished.CHECKPOINTS, ignore_errors=True)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "allocate memory" in str(error) or "out of memory" in str(error)


def settings_line(settings: Any) -> str:
    """Give settings as one line for people."""
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )
