"""A sweep: many short trainings of one recipe with other settings, chosen by the validation rows alone.

runs/reviews-sweep/
  sweep.json      what is searched; with it a killed sweep goes on
  trials.db       every trial (or another database, which several machines can share)
  trials/ID/      each trial's recipe, plan and log; of the best one also its checkpoints
  best.yaml       the best recipe so far, ready for `tunesmith train`
  best/           the finished run of the best trial: the test rows are answered once, by this one
  result.json, report.html, log.jsonl
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.bundle.atomic import MANIFEST, write_file, write_json
from tunesmith.bundle.load import Bundle, load
from tunesmith.errors import Stopped, TrainingProblem
from tunesmith.search import study as database
from tunesmith.search.found import Found, SweepOptions
from tunesmith.search.report import render_sweep
from tunesmith.search.space import SearchSpace
from tunesmith.search.study import Record, Trial, best_of
from tunesmith.search.trial import ENCODED, STATES, Trainer, clear, settings_line
from tunesmith.training import folder as run_folder
from tunesmith.training.job import Job
from tunesmith.training.memo import Memo
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import Recipe
from tunesmith.types import Event, Plan, from_json

_HOPELESS = 3  # trials that fail one after the other, with none that worked, before the sweep gives up
_LOOK_SECONDS = 0.5  # between two looks at the database while other processes work
_OVER = {"complete", "pruned", "failed"}

OnEvent = Callable[[Event], None]


@dataclass
class Sweep:
    """A sweep that is ready to start."""

    recipe: Recipe
    options: SweepOptions
    folder: Path
    url: str
    name: str  # of the study: the same rows, base, recipe and space have the same
    space: SearchSpace
    metric: str
    most_epochs: float
    memo: Memo
    job: Job  # the recipe's own, for those who want to see the plan
    remarks: list[str] = field(default_factory=list)
    worker: int = 0  # which of several processes this is

    def run(self, *, on_event: OnEvent = lambda _: None, stop_signal: Callable[[], int] = lambda: 0) -> Found:
        """Search, then finish the best trial's run and write the report.

        Raises:
            Stopped: A signal came. All is kept; the same sweep goes on with `--resume`.
            TrainingProblem: Every trial failed, or none got as far as an evaluation.
        """
        started = time.perf_counter()
        record = self.open()
        deadline = time.monotonic() + self.options.budget_seconds
        log = run_folder.Log(self.folder)

        def tell(event: Event) -> None:
            if event.kind in {"trial", "note"}:
                log.write(event)
            on_event(event)

        if left := record.take_over():
            tell(Event("note", 0.0, text=f"{left} trials were left by a process that died; they are tried again"))
        database.begin(record)
        try:
            if self.options.jobs > 1 or self.options.engine == "ray":
                ended = self._search_with_others(record, deadline, tell, stop_signal)
            else:
                ended = self.search(record, deadline, tell, stop_signal)
            best = _demand_best(record, self)
            bundle = self._finish(best, on_event, stop_signal)
        except Stopped as stopped:
            self._keep(self._found(record, started, f"stopped by signal {stopped.exit_code - 128}"))
            raise
        return self._keep(dataclasses.replace(self._found(record, started, ended), bundle=bundle))

    def open(self) -> Record:
        """Open the database."""
        seed = self.recipe.seed + 1_000_003 * self.worker
        return database.open_study(self.url, self.name, self.space, metric=self.metric, seed=seed)

    def search(
        self, record: Record, deadline: float, on_event: OnEvent, stop_signal: Callable[[], int] = lambda: 0
    ) -> str:
        """Make trials until there are enough, or the time is over; say which."""
        started = time.perf_counter()
        trainer = Trainer(
            recipe=self.recipe,
            record=record,
            memo=self.memo,
            folder=self.folder / "trials",
            most_epochs=self.most_epochs,
            stop_signal=stop_signal,
            on_event=on_event,
            deadline=deadline,
        )
        while time.monotonic() < deadline:
            if number := stop_signal():
                raise Stopped(f"stopped by signal {number}", where=str(self.folder), signal_number=number)
            trials = record.trials()
            waiting = [trial for trial in trials if trial.state == "waiting"]
            if not waiting and len(trials) >= self.options.trials:
                return f"{self.options.trials} trials were made"
            on_event(Event("stage", time.perf_counter() - started, step=len(trials) - len(waiting)))
            try:
                database.run_one(record, trainer)
            except (Stopped, KeyboardInterrupt):
                record.queue_last_again()
                raise
            clear(record, trainer.folder)
            on_event(trial_event(record, time.perf_counter() - started))
            _demand_hope(record.trials())
        return "the time was over"

    def _search_with_others(
        self, record: Record, deadline: float, on_event: OnEvent, stop_signal: Callable[[], int]
    ) -> str:
        """Let several processes search, and tell what they find."""
        from tunesmith.search.workers import start

        started, told = time.perf_counter(), {trial.number for trial in record.trials() if trial.state in _OVER}
        with start(self, deadline) as crew:
            while crew.is_busy():
                if number := stop_signal():
                    crew.stop()
                    raise Stopped(f"stopped by signal {number}", where=str(self.folder), signal_number=number)
                time.sleep(_LOOK_SECONDS)
                for trial in record.trials():
                    if trial.state in _OVER and trial.number not in told:
                        told.add(trial.number)
                        on_event(trial_event(record, time.perf_counter() - started, trial))
            crew.demand_success()
        _demand_hope(record.trials())
        return "the time was over" if time.monotonic() > deadline else f"{self.options.trials} trials were made"

    def _finish(self, best: Trial, on_event: OnEvent, stop_signal: Callable[[], int]) -> Bundle:
        """Give the bundle of the best trial: its weights are kept where they are, else it is trained again.

        Both are exact: a run is a function of its plan.
        """
        recipe, target = self.recipe_of(best), self.folder / "best"
        if (target / MANIFEST).is_file() and load(target, verify=False).id == best.run:
            return load(target)
        if (target / "plan.json").is_file() and _plan_id(target) != best.run:
            shutil.rmtree(target)  # an earlier best one, of this very sweep
        kept = self.folder / "trials" / best.run
        if not (target / "plan.json").is_file() and (kept / "plan.json").is_file():
            shutil.rmtree(target, ignore_errors=True)
            os.replace(kept, target)
        if (target / "plan.json").is_file():
            job = prepare_resume(target, memo=self.memo)
        else:
            job = prepare(dataclasses.replace(recipe, out=str(target)), memo=self.memo)
        trials = self.folder / "trials"
        job.states_folder, job.encoded_folder = trials / STATES, trials / ENCODED
        for event in job.run(stop_signal):
            on_event(event)
        for name in (STATES, ENCODED):
            shutil.rmtree(trials / name, ignore_errors=True)
        assert job.bundle is not None
        return job.bundle

    def recipe_of(self, trial: Trial) -> Recipe:
        """Give the recipe of a trial."""
        return dataclasses.replace(self.recipe, **trial.settings)

    def _found(self, record: Record, started: float, ended: str) -> Found:
        trials = tuple(record.trials())
        best = best_of(trials, self.metric)
        text = "" if best is None else whole_paths(self.recipe_of(best), self.job)
        return Found(
            folder=self.folder,
            study=self.name,
            database=database.shown(self.url),
            metric=self.metric,
            methods=self.space.methods,
            space=self.space.described(),
            trials=trials,
            best=best,
            curve=tuple(database.curve(trials, self.metric)),
            importance=database.importance(record),
            recipe=text,
            seconds=time.perf_counter() - started,
            ended=ended,
            remarks=tuple(self.remarks),
        )

    def _keep(self, found: Found) -> Found:
        """Write what was found so far."""
        if found.best is not None:
            write_file(self.folder / "best.yaml", found.recipe)
        content = {name: value for name, value in vars(found).items() if name not in {"bundle", "recipe"}}
        gain = None if found.bundle is None else found.bundle.gain.after
        write_json(self.folder / "result.json", {**content, "test": gain})
        write_file(self.folder / "report.html", render_sweep(found))
        return found


def whole_paths(recipe: Recipe, job: Job) -> str:
    """Give a recipe as YAML that can be run from any folder."""
    return dataclasses.replace(job, recipe=recipe).recipe_text


def trial_event(record: Record, seconds: float, trial: Trial | None = None) -> Event:
    """Give the event of a trial that is over: the newest one, unless another is given."""
    trials = record.trials()
    trial = trial or max((one for one in trials if one.state in _OVER), key=lambda one: one.number)
    best = best_of(trials, record.metric)
    counts = {state: sum(one.state == state for one in trials) for state in ("complete", "pruned", "failed")}
    values = {"trials": float(sum(counts.values())), **{name: float(count) for name, count in counts.items()}}
    values |= {} if trial.value is None else {"value": trial.value}
    values |= {} if best is None or best.value is None else {"best": best.value, "best_trial": float(best.number)}
    values |= {"trial_seconds": trial.seconds, "share": trial.share}
    reason = f" ({trial.reason})" if trial.reason else ""
    return Event(
        "trial",
        seconds,
        trial.number,
        values,
        f"{trial.state}{reason}: {settings_line(record.space.varied(trial.settings))}",
    )


def _demand_hope(trials: Sequence[Trial]) -> None:
    over = [trial for trial in trials if trial.state in _OVER]
    if len(over) >= _HOPELESS and all(trial.state == "failed" for trial in over):
        raise TrainingProblem(
            f"all of the first {len(over)} trials failed; the last: {over[-1].reason}",
            where=settings_line(over[-1].settings),
            do="see that the recipe trains by itself (tunesmith train), or narrow what varies with --space",
        )


def _demand_best(record: Record, sweep: Sweep) -> Trial:
    best = best_of(record.trials(), record.metric)
    if best is None:
        raise TrainingProblem(
            f"no trial got as far as an evaluation of the validation rows in {sweep.options.budget_seconds:.0f} s",
            where=str(sweep.folder),
            do=f"give it more time: tunesmith sweep --resume {sweep.folder} --budget 1h",
        )
    return best


def _plan_id(folder: Path) -> str:
    plan: Plan = from_json(Plan, json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    return plan.id
