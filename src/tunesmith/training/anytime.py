"""Training against the clock: a usable model within seconds, then better ones, until the time given is over.

The first attempt frees the top block alone, on states that are computed once; then more of the model may change. An
attempt is an ordinary run that starts from the base model. It takes the place of the best one so far only if it does
better on the validation rows, and what stands in the run folder is at every moment a whole bundle: Ctrl-C, or the end
of the time, leaves the best.

Where rows are many, a sketch comes before all that: the same from a few hundred of them, measured on a hundred others.
Where the time does not do for all rows, a second sketch takes as many as it does for. Whatever is learnt from more rows
takes a sketch's place, and should nothing come after it, it is measured on all test rows.

How many steps fit depends on the machine and on what else it does, so two runs with a budget need not give the same
bits. The recipe that is kept is the winner's own; unless the clock cut that attempt off, running it without a budget
gives the same model again.
"""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import promote
from tunesmith.bundle.load import Bundle, load
from tunesmith.data import fingerprint
from tunesmith.data.store import choose
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.metrics import goodness
from tunesmith.models.find import Base, find_base
from tunesmith.training import folder as run_folder
from tunesmith.training.auto_method import settle_method
from tunesmith.training.intake import Intake, take_in
from tunesmith.training.job import Job
from tunesmith.training.measure import Yardstick
from tunesmith.training.memo import Memo, reading
from tunesmith.training.prepare import prepare
from tunesmith.training.processes import demand_alone
from tunesmith.training.recipe import AUTO, Recipe
from tunesmith.training.recipe_values import read_seconds
from tunesmith.types import Event, Plan, Record, Splits

_ATTEMPTS = "attempts"
_SMALL = 0.25  # a cheaper attempt comes before the full one where it takes at most this share of the time left
_LEAST_EPOCHS = 0.5  # an attempt that would see fewer of its rows is not begun
_QUICK: dict[str, Any] = {
    "method": "top-layers",
    "top_layers": 1,
    "epochs": 2.0,
    "learning_rate": AUTO,
}  # see docs/notebook.md
_QUICK_RATE = 3.0  # times the method's rate: two passes have to do
_SKETCH_ROWS = {"train": 256, "valid": 64, "test": 64}
_SKETCH_ROWS_A_LABEL = 4  # of training rows, about, where labels are many
_SKETCH_FROM = 4  # times its rows; with fewer, the first attempt on all rows is as good as at once
_CLEARLY_MORE = 2  # times the rows of the first sketch, for a second one to be worth its time
_OTHER_RATES = (0.5, 2.0)  # times the learning rate of the recipe's own attempt, once that is done
_SHORT = 0.125  # share of the time for the first attempt of a task that has no fresh head to probe


@dataclass
class Anytime:
    """A run with a budget. It is used as a `Job` is: `plan`, `run`, `bundle`."""

    recipe: Recipe
    seconds: float  # for everything
    started: float  # time.perf_counter() when the clock began
    intake: Intake  # the rows
    first: Job  # of the first attempt, prepared
    sketches: list[Job]  # those that have some of the rows
    memo: Memo
    remarks: list[str] = field(default_factory=list)
    folder: Path | None = None
    bundle: Bundle | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)  # what was tried so far
    yardstick: Yardstick | None = None  # found when there is a usable model
    _best: tuple[tuple[float, float], Job] | None = None  # (goodness, - loss) on the validation rows, and the run
    _keeping: float = 1.0  # seconds that measuring and keeping an attempt takes
    _pace: float = 1.0  # seconds of training for each second that was expected

    @property
    def plan(self) -> Plan:
        """The plan of the first attempt, with the numbers of all rows; that of the best one stands in the bundle."""
        splits, plan = self.intake.splits, self.first.plan
        rows = {"train": len(splits.train), "valid": len(splits.valid), "test": len(splits.test)}
        return dataclasses.replace(plan, data={**plan.data, **rows})

    @property
    def base(self) -> Base:
        """The base model."""
        return self.first.base

    @property
    def left(self) -> float:
        """Seconds that are left for training."""
        return self.seconds - (time.perf_counter() - self.started) - 2 * self._keeping

    def run(self, stop_signal: Callable[[], int] = lambda: 0) -> Iterator[Event]:
        """Make attempts until the time is over, nothing is left to try, or a signal comes; `bundle` is the best.

        Raises:
            Stopped: A signal came before there was a usable model.
            TunesmithError: As for `Job.run`, from the first attempt; later ones that fail are only noted.
        """
        self.folder = folder = run_folder.new_folder(self.recipe.out, self.recipe.data)
        with run_folder.locked(folder):
            for name, job in self._jobs():
                yield self._event("stage", f"attempt {len(self.attempts) + 1}: {name}", steps=job.plan.steps)
                is_best = yield from self._try(name, job, stop_signal)
                if is_best:
                    self._keep(job)
                    yield self._event("note", f"{name}: kept, {self._score(job)} at {self._clock():.0f} s")
                if stop_signal():
                    break
                if self.yardstick is None and not self._is_sketch(job):
                    yield self._event("stage", "naive baselines, and the base model before adaptation")
                    self.yardstick = job.find_yardstick()
            self._settle()
            for name in (_ATTEMPTS, unfinished.STATES):
                shutil.rmtree(folder / name, ignore_errors=True)
        self.bundle = load(folder, verify=False)
        yield self._event("end", self.bundle.gain.verdict)

    def _jobs(self) -> Iterator[tuple[str, Job]]:
        """Give what is worth trying in the time that is left, the cheapest first."""
        name = "the top block" if self.intake.task.has_fresh_head else "a short run"
        if not self.sketches:
            yield name, self.first
        else:
            yield f"{name}, from {len(self.first.intake.splits.train):,} rows", self.first
            quick = {**_QUICK, "learning_rate": self.first.plan.options["learning_rate"]}
            again = self._prepared(quick)
            if again is None:
                return
            share = self._share(again)
            if share * _QUICK["epochs"] < _LEAST_EPOCHS:
                yield from self._larger_sketch(name, quick, share)
                return
            yield from self._fitted(name, again)
        own = self._prepared({})
        if own is None:
            return
        blocks = max(1, len(own.anatomy.blocks) // 3)
        if self.intake.task.has_fresh_head and self.recipe.method == "full":
            some = self._prepared({"method": "top-layers", "top_layers": blocks})
            is_short = own.plan.expected_seconds * self._pace > self.left
            if some and (is_short or some.plan.expected_seconds * self._pace < _SMALL * self.left):
                yield from self._fitted(f"the top {blocks} of {len(own.anatomy.blocks)} blocks", some)
        yield from self._fitted(f"method {self.recipe.method}", own)
        for factor in _OTHER_RATES:
            rate = float(own.plan.options["learning_rate"]) * factor
            if other := self._prepared({"learning_rate": rate}):
                yield from self._fitted(f"method {self.recipe.method} at rate {rate:.1e}", other)

    def _is_sketch(self, job: Job) -> bool:
        return any(job is one for one in self.sketches)

    def _larger_sketch(self, name: str, changes: Mapping[str, Any], share: float) -> Iterator[tuple[str, Job]]:
        """Give the same from as many rows as there is time for, where those are clearly more than before."""
        before = len(self.first.intake.splits.train)
        rows = _some_rows(self.intake, self.recipe.seed, times=share * len(self.intake.splits.train) / before)
        count = len(rows.splits.train)
        if count >= _CLEARLY_MORE * before and (job := self._prepared(changes, rows=rows)):
            self.sketches.append(job)
            yield f"{name}, from {count:,} rows", job

    def _prepared(self, changes: Mapping[str, Any], *, rows: Intake | None = None) -> Job | None:
        """Make a run ready; None when there is no time for it, or it cannot be."""
        if self.left <= 0:
            return None
        try:
            return prepare(dataclasses.replace(self.recipe, **changes), memo=self.memo, rows=rows)
        except TunesmithError as error:
            self.remarks.append(f"not tried: {error.what}")
            return None

    def _share(self, job: Job) -> float:
        """Give the share of a run for which there is time."""
        return min(1.0, max(0.0, self.left) / max(job.plan.expected_seconds * self._pace, 1e-9))

    def _fitted(self, name: str, job: Job) -> Iterator[tuple[str, Job]]:
        """Give the run with as many steps as the time allows; nothing where that is too few to be of use."""
        plan, share = job.plan, self._share(job)
        if share == 1.0:
            yield name, job
        elif share * float(plan.options["epochs"]) >= _LEAST_EPOCHS:
            steps = max(1, math.floor(plan.steps * share))
            recipe = dataclasses.replace(job.recipe, max_steps=steps)
            yield f"{name}, {steps} of {plan.steps} steps", prepare(recipe, memo=self.memo)

    def _try(self, name: str, job: Job, stop_signal: Callable[[], int]) -> Generator[Event, None, bool]:
        """Train one attempt; give whether it is the best so far. The first has no rival, and fails as any run does."""
        assert self.folder is not None
        number, start = len(self.attempts) + 1, self._clock()
        job.folder = self.folder / _ATTEMPTS / str(number)
        job.folder.mkdir(parents=True)
        job.states_folder, job.name = self.folder / unfinished.STATES, self.folder.name
        value, problem = (-math.inf, -math.inf), ""
        try:
            for event in job.learn(stop_signal, lambda: number > 1 and self.left <= 0):
                if event.kind == "evaluation":
                    selects_by = str(job.plan.options["select_by"])
                    value = max(value, (goodness(selects_by, event.values[selects_by]), -event.values["loss"]))
                yield dataclasses.replace(event, seconds=self._clock())
        except (Stopped, TunesmithError) as error:
            if self._best is None:
                raise
            problem = error.what
        seconds = self._clock() - start
        if not problem and job.plan.expected_seconds > 1:
            self._pace = max(0.2, min(5.0, seconds / job.plan.expected_seconds))
        is_best = not problem and (self._best is None or self._is_sketch(self._best[1]) or value > self._best[0])
        if is_best:
            self._best = (value, job)
        self.attempts.append(
            {
                "attempt": name,
                "method": job.plan.method,
                "steps": job.plan.steps,
                "began": round(start, 1),
                "seconds": round(seconds, 1),
                "valid_score": None if problem else abs(value[0]),
                "is_kept": is_best,
                "problem": problem,
            }
        )
        return is_best

    def _keep(self, job: Job) -> None:
        """Measure an attempt and make it the run's bundle."""
        assert self.folder is not None
        assert job.folder is not None
        start = time.perf_counter()
        job.yardstick, job.attempts = self.yardstick or Yardstick(), tuple(self.attempts)
        job.finish()
        promote(job.folder, self.folder)
        self._keeping = time.perf_counter() - start

    def _settle(self) -> None:
        """Write the best bundle once more, held against the yardstick and with all that was tried."""
        assert self.folder is not None
        assert self._best is not None
        _, job = self._best
        if self._is_sketch(job):
            self._widen(job)
        if self.yardstick is None:
            self.yardstick = job.find_yardstick()
        job.folder = self.folder / _ATTEMPTS / "best"
        job.folder.mkdir(parents=True)
        shutil.copy(self.folder / run_folder.LOG, job.folder)
        self._keep(job)

    def _widen(self, sketch: Job) -> None:
        """Let the sketch, after which nothing came, be measured on all test rows."""
        length = int(sketch.plan.options["max_length"])  # texts are cut where the bundle will cut them
        whole = prepare(dataclasses.replace(sketch.recipe, max_length=length), memo=self.memo)
        sketch.intake, sketch.examples, sketch.encoding = whole.intake, whole.examples, whole.encoding
        kept = {name: whole.plan.data[name] for name in ("valid", "test", "fingerprint")}
        sketch.plan = dataclasses.replace(sketch.plan, data={**sketch.plan.data, **kept})
        sketch.forget_measured()

    def _score(self, job: Job) -> str:
        assert self._best is not None
        return f"{job.plan.options['select_by']} {abs(self._best[0][0]):.3f} on the validation rows"

    def _clock(self) -> float:
        return time.perf_counter() - self.started

    def _event(self, kind: Any, text: str, **values: float) -> Event:
        return Event(kind, self._clock(), 0, values, text)


def prepare_anytime(recipe: Recipe) -> Anytime:
    """Read the rows and make the first attempt ready; the clock of the recipe's `budget` begins.

    Raises:
        PlanProblem: The budget is no time; and whatever `prepare` raises.
    """
    started, seconds = time.perf_counter(), read_seconds(recipe.budget, "budget")
    demand_alone(
        "a budget makes several runs against one clock, in one process",
        "leave out --budget or --processes; --set max_steps=N bounds a run of several processes",
    )
    memo, recipe = Memo(), dataclasses.replace(recipe, budget="")
    intake = memo.recall(("rows", reading(recipe)), lambda: take_in(recipe))
    base = memo.recall(("base", recipe.model), lambda: find_base(recipe.model))
    recipe, settled = settle_method(recipe, intake, base, budget_seconds=seconds)
    remarks = list(settled.inferred[len(intake.inferred) :])  # why this method, where it was to be chosen
    if intake.task.has_fresh_head:
        wanted = _SKETCH_FROM * _sketch_rows(intake)["train"]
        some = _some_rows(intake, recipe.seed) if len(intake.splits.train) >= wanted else None
        first = prepare(dataclasses.replace(recipe, **_QUICK), memo=memo, rows=some)
        rate = _QUICK_RATE * float(first.plan.options["learning_rate"])
        first.recipe = dataclasses.replace(first.recipe, learning_rate=rate)
        first.plan = dataclasses.replace(first.plan, options={**first.plan.options, "learning_rate": rate})
        return Anytime(recipe, seconds, started, intake, first, [first] if some else [], memo, remarks)
    own = prepare(recipe, memo=memo)
    share = min(1.0, _SHORT * seconds / max(own.plan.expected_seconds, 1e-9))
    steps = max(1, math.floor(own.plan.steps * share))
    first = prepare(dataclasses.replace(recipe, max_steps=steps), memo=memo)
    return Anytime(recipe, seconds, started, intake, first, [], memo, remarks)


def _sketch_rows(intake: Intake) -> dict[str, int]:
    """Give how many rows of each part the first sketch has."""
    return {**_SKETCH_ROWS, "train": max(_SKETCH_ROWS["train"], _SKETCH_ROWS_A_LABEL * len(intake.labels))}


def _some_rows(intake: Intake, seed: int, *, times: float = 1.0) -> Intake:
    """Give rows drawn at random: so many times those of the first sketch, as far as there are that many."""
    wanted, generator = _sketch_rows(intake), random.Random(seed)

    def some(part: str, records: Sequence[Record]) -> Sequence[Record]:
        count = min(len(records), max(1, int(times * wanted[part])))
        return choose(records, sorted(generator.sample(range(len(records)), count)))

    splits = intake.splits
    train, valid, test = some("train", splits.train), some("valid", splits.valid), some("test", splits.test)
    return dataclasses.replace(intake, splits=Splits(train, valid, test, fingerprint(train, valid, test)))
