"""Run a prepared pretraining: count, measure before, train, measure after, keep; as a stream of Events."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.pretraining.baseline import MOST_TOKENS, bigram_loss, unigram_loss, unigram_shares
from tunesmith.pretraining.keep import PretrainResult, save_result
from tunesmith.pretraining.objective import LanguageObjective, scores_of
from tunesmith.pretraining.options import PretrainRecipe
from tunesmith.pretraining.packing import Blocks
from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training import folder as run_folder
from tunesmith.training.as_planned import as_computed, as_planned
from tunesmith.training.checkpoint import Checkpoint, forget_after, newest_whole
from tunesmith.training.loop import training_events
from tunesmith.training.material import Material
from tunesmith.types import Event, Plan

CORPUS = "corpus"
WORKING = (*unfinished.WORKING, CORPUS)  # not part of what is kept


class _Pace:
    """Counts steps and the time that they alone took."""

    def __init__(self) -> None:
        self.steps = self.timed = 0
        self.seconds = 0.0
        self._last: float | None = None

    def take(self, event: Event) -> None:
        """Note one event; the time since the last one counts if both are steps."""
        if event.kind != "step":
            self._last = None
            return
        if self._last is not None:
            self.seconds += event.seconds - self._last
            self.timed += 1
        self._last, self.steps = event.seconds, event.step

    @property
    def steps_per_second(self) -> float:
        """Of the steps whose time is known."""
        return self.timed / self.seconds if self.seconds > 0 else 0.0


@dataclass
class PretrainJob:
    """A pretraining run that is ready to start. `run` may be called once."""

    recipe: PretrainRecipe
    plan: Plan
    objective: LanguageObjective
    model: Any
    tokenizer: Any
    train: Blocks
    valid: Blocks
    folder: Path
    final_dropout: Mapping[str, Any]  # what the kept configuration says: entry -> value
    remarks: list[str] = field(default_factory=list)  # what the person should know before it starts
    resumed_from: Checkpoint | None = None
    trial: tempfile.TemporaryDirectory[str] | None = None  # holds the folder of a dry run
    result: PretrainResult | None = None  # set by `run`

    def run(self, stop_signal: Callable[[], int] = lambda: 0) -> Iterator[Event]:
        """Train, measure and keep; `result` is set when the events end.

        Args:
            stop_signal: Asked after every step; a signal's number saves a checkpoint and stops.

        Yields:
            What `training_events` yields, with tokens_per_second in evaluations; after each of them a "note" with
            filled masks or a sample.

        Raises:
            MachineProblem: Disk full, folder gone, or held by another process.
            TrainingProblem: A number was not finite; the last good checkpoint is kept.
            Stopped: `stop_signal` said so; everything so far is saved.
        """
        demand_one_process()
        started = time.perf_counter()
        with run_folder.locked(self.folder):
            if (self.folder / MANIFEST).is_file():
                raise finished(self.folder)
            checkpoints = self.folder / unfinished.CHECKPOINTS
            self.resumed_from, _ = newest_whole(checkpoints)
            step = -1 if self.resumed_from is None else self.resumed_from.step
            forget_after(checkpoints, step)
            log = run_folder.Log(self.folder)
            log.cut_back(step)
            for event in self._work(stop_signal, started):
                log.write(event)
                yield event
            self._keep()

    def discard(self) -> None:
        """Remove the folder of a dry run."""
        if self.trial is not None:
            self.trial.cleanup()

    @property
    def step_tokens(self) -> int:
        """Tokens of a full step."""
        options = self.plan.options
        return int(options["batch_size"] * options["gradient_accumulation_steps"] * self.train.frame.length)

    def _work(self, stop_signal: Callable[[], int], started: float) -> Iterator[Event]:
        """Everything between the open folder and the files of the model."""

        def stage(text: str) -> Event:
            if number := stop_signal():
                raise Stopped(f"stopped by signal {number} before {text}", where=str(self.folder), signal_number=number)
            return Event("stage", time.perf_counter() - started, text=text)

        yield stage("counting, the naive baseline")
        baselines = self._baselines()
        yield stage("measuring the model before")
        before = self._measure()
        yield stage("training")
        pace, seconds = _Pace(), 0.0
        with as_planned(self.plan) as accelerator, as_computed(self.plan, self.model):
            for event in self._train(accelerator, stop_signal, pace):
                seconds = event.seconds
                yield event
        self.model.to("cpu")
        yield stage("measuring the model after")
        self.result = self._result(baselines, before, pace, seconds)
        after = self.result.after["perplexity"]
        text = f"validation perplexity {before['perplexity']:,.1f} -> {after:,.1f}"
        yield Event("end", time.perf_counter() - started, pace.steps, text=text)

    def _train(self, accelerator: Any, stop_signal: Callable[[], int], pace: _Pace) -> Iterator[Event]:
        """Run the loop; add the speed to its evaluations, and a note after each."""
        material = Material(self.objective, self.model, self.tokenizer, self.train, self.valid)
        events = training_events(
            self.plan,
            material,
            self.folder / unfinished.CHECKPOINTS,
            accelerator,
            checkpoint=self.resumed_from,
            stop_signal=stop_signal,
        )
        for event in events:
            pace.take(event)
            if event.kind != "evaluation":
                yield event
                continue
            speed = {"tokens_per_second": pace.steps_per_second * self.step_tokens}
            yield dataclasses.replace(event, values={**event.values, **speed})
            text = self.objective.show(self.model, self.valid, self.tokenizer, step=event.step)
            yield Event("note", event.seconds, event.step, text=text)

    def _measure(self) -> dict[str, float]:
        options = {"tokenizer": self.tokenizer, "labels": (), "batch_tokens": int(self.plan.options["batch_tokens"])}
        return self.objective.evaluate(self.model.eval(), self.valid, **options)

    def _baselines(self) -> dict[str, dict[str, float]]:
        """Score counting on the tokens that the model is asked for."""
        batch_tokens = int(self.plan.options["batch_tokens"])
        shares_V = unigram_shares(self.train.stream, max(len(self.tokenizer), int(self.model.config.vocab_size)))
        per_token = getattr(self.objective, "characters_per_token", None)
        unigram = unigram_loss(self.objective, self.valid, shares_V, batch_tokens)
        found = {"unigram": scores_of(unigram, per_token)}
        if self.objective.name == "clm":
            found["bigram"] = scores_of(bigram_loss(self.train.stream, self.valid, shares_V), per_token)
        if len(self.train.stream.ids) > MOST_TOKENS:
            self.remarks.append(f"the baselines were counted on the first {MOST_TOKENS:,} tokens")
        return found

    def _result(
        self, baselines: dict[str, dict[str, float]], before: dict[str, float], pace: _Pace, seconds: float
    ) -> PretrainResult:
        resumed = 0 if self.resumed_from is None else self.resumed_from.step
        steps = max(pace.steps, resumed)
        options = self.plan.options
        each = steps_per_epoch(len(self.train), options["batch_size"] * options["gradient_accumulation_steps"])
        return PretrainResult(
            baselines=baselines,
            before=before,
            after=self._measure(),
            steps=steps,
            tokens=round(steps / each * len(self.train) * self.train.frame.length),
            tokens_per_second=pace.steps_per_second * self.step_tokens,
            seconds=seconds,
            valid_tokens=len(self.valid) * self.valid.frame.body,
            samples=self.objective.show(self.model, self.valid, self.tokenizer, step=0),
            remarks=tuple(self.remarks),
        )

    def _keep(self) -> None:
        """Write the model folder, then remove what only the unfinished run needed."""
        assert self.result is not None
        for name, value in self.final_dropout.items():
            setattr(self.model.config, name, value)
        save_result(
            self.folder,
            model=self.model,
            tokenizer=self.tokenizer,
            plan=self.plan,
            result=self.result,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            leave_out=WORKING,
        )
        for name in (unfinished.CHECKPOINTS, CORPUS):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def demand_one_process() -> None:
    """Refuse to be one of several processes.

    Raises:
        PlanProblem: `torchrun` or `accelerate launch` started more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PlanProblem(
            "pretraining runs in one process", where="WORLD_SIZE", do="start it without torchrun or accelerate launch"
        )


def finished(folder: Path) -> BundleProblem:
    """Give the refusal to go on with a run that is through."""
    for name in (unfinished.CHECKPOINTS, CORPUS):  # left by a kill right after the manifest
        shutil.rmtree(folder / name, ignore_errors=True)
    return BundleProblem(
        "this run is finished; there is nothing to resume",
        where=str(folder),
        do=f"use it: tunesmith train DATA --model {folder}",
    )
