"""Self-training: train, label what the run is sure of among rows without labels, train again on both.

Each round is an ordinary run from the base model. The second one learns the labelled rows and, at less weight, those
that the first has labelled. It takes the first one's place only if it does better on the validation rows, and both are
compared on the test rows, whichever is kept.

RUN/rounds/0, 1, ...    the rounds, each a run folder of its own; removed when the bundle is whole
RUN/recipe.yaml, plan.json    written first

Until the end the folder is an unfinished run: `train --resume` takes finished rounds as they are, goes on with one that
was broken off from its newest checkpoint, and ends with the same weights. The bundle is put in its place at once
(`bundle/atomic.promote`).

Sources: Lee 2013 (pseudo labels at less weight); Xie et al. 2020 (a new student each round, balanced by label).
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST, promote, write_file, write_json
from tunesmith.bundle.load import Bundle, load
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.methods import find_method, is_trained
from tunesmith.metrics import goodness
from tunesmith.models.find import Base
from tunesmith.tasks import TASKS
from tunesmith.tasks.weighed_rows import why_not as why_not_weighed
from tunesmith.training import folder as run_folder
from tunesmith.training.intake import Intake, take_in
from tunesmith.training.job import Job, finished
from tunesmith.training.measure import Yardstick
from tunesmith.training.memo import Memo
from tunesmith.training.prepare import demand_same, prepare, read_plan
from tunesmith.training.processes import demand_alone
from tunesmith.training.pseudo_account import sentences, tell, told_of
from tunesmith.training.pseudo_labels import Pseudo, label_rows, why_not, with_pseudo
from tunesmith.training.recipe import AUTO, Recipe, make_recipe, read_recipe
from tunesmith.types import Event, Plan, to_json

ROUNDS = "rounds"


def is_self_training(recipe: Recipe) -> bool:
    """Whether a recipe asks for it: with unlabelled rows, and nobody else who would say what they are."""
    return bool(recipe.unlabelled) and not recipe.teacher


@dataclass
class SelfTraining:
    """A run that labels rows itself. It is used as a `Job` is: `plan`, `run`, `bundle`."""

    recipe: Recipe  # as asked, with the method settled
    first: Job  # on the labelled rows alone
    rows: Intake  # the labelled rows, before the method has asked them in its own way
    sha256: str  # of the unlabelled file
    memo: Memo
    remarks: list[str] = field(default_factory=list)
    folder: Path | None = None
    is_resumed: bool = False
    bundle: Bundle | None = None
    account: dict[str, Any] = field(default_factory=dict)  # of all rounds, as the report shows it
    yardstick: Yardstick | None = None
    _started: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def plan(self) -> Plan:
        """The plan of the first round, with the unlabelled file among its files."""
        return _with_file(self.first.plan, self.recipe.unlabelled, self.sha256)

    @property
    def intake(self) -> Intake:
        """The labelled rows."""
        return self.first.intake

    @property
    def base(self) -> Base:
        """The base model."""
        return self.first.base

    def run(self, stop_signal: Callable[[], int] = lambda: 0) -> Iterator[Event]:
        """Train round after round, as long as the next one is better; `bundle` is the best.

        Raises:
            Stopped: A signal came; `train --resume` goes on.
            TunesmithError: As for `Job.run`.
        """
        self.folder = folder = self.folder or run_folder.new_folder(self.recipe.out, self.recipe.data)
        with run_folder.locked(folder):
            if (folder / MANIFEST).is_file():  # another process has ended it meanwhile
                raise BundleProblem("this run is finished", where=str(folder), do=f"tunesmith predict {folder} ...")
            if not self.is_resumed:
                write_file(folder / "recipe.yaml", self.recipe_text)
                write_json(folder / "plan.json", self.plan)
            best = yield from self._round(0, self.first, stop_signal)
            rounds: list[dict[str, Any]] = []
            for number in range(1, self.recipe.pseudo_rounds + 1):
                if signal_number := stop_signal():
                    words = f"stopped by signal {signal_number} before round {number}; all is saved"
                    raise Stopped(words, where=str(folder), signal_number=signal_number)
                yield self._event("stage", f"round {number}: answering the unlabelled rows")
                pseudo = label_rows(best, self.recipe.unlabelled, self.intake.splits, self.first.recipe)
                rounds.append(told_of(number, pseudo))
                if not len(pseudo.records):
                    break
                other = yield from self._round(number, self._next(number, pseudo), stop_signal)
                is_better = self._reached(other) > self._reached(best)
                rounds[-1] |= self._compared(best, other, is_better=is_better)
                if not is_better:
                    break
                best = other
            self._settle(best, rounds)
        self.bundle = load(folder, verify=False)
        for words in self.account["said"]:
            yield self._event("note", words)
        yield self._event("end", self.bundle.gain.verdict)

    @property
    def recipe_text(self) -> str:
        """The recipe as YAML that repeats all of this from any folder."""
        whole = copy.copy(self.first)
        whole.recipe = self.recipe
        return whole.recipe_text

    def _next(self, number: int, pseudo: Pseudo) -> Job:
        """Make the next round ready: the labelled rows, and those that were given a label."""
        assert self.folder is not None
        kept = _kept(self.folder / ROUNDS / str(number))
        job = prepare(self.first.recipe, memo=self.memo, rows=with_pseudo(self.rows, pseudo), **kept)
        if why_not_weighed(job.intake.task) is None:
            job.row_weights = {record.id: self.recipe.pseudo_weight for record in pseudo.records}
        told = {"rows": len(pseudo.records), "threshold": pseudo.gate.threshold, "weight": self.recipe.pseudo_weight}
        plan = _with_file(job.plan, self.recipe.unlabelled, pseudo.sha256)
        job.plan = dataclasses.replace(plan, data={**plan.data, "pseudo": told})
        return job

    def _round(self, number: int, job: Job, stop_signal: Callable[[], int]) -> Generator[Event, None, Bundle]:
        """Train and measure one round, or take it as it is where it is finished already."""
        assert self.folder is not None
        path = self.folder / ROUNDS / str(number)
        if (path / "plan.json").is_file():
            demand_same(read_plan(path), job.plan, path)
            job.plan, job.is_resumed = read_plan(path), True
        if not (path / MANIFEST).is_file():
            path.mkdir(parents=True, exist_ok=True)
            words = "on the labelled rows" if number == 0 else f"on {job.plan.data['pseudo']['rows']:,} more rows"
            yield self._event("stage", f"round {number}: training {words}", steps=job.plan.steps)
            job.folder, job.name = path, self.folder.name
            for event in job.learn(stop_signal):
                yield dataclasses.replace(event, seconds=self._clock())
            yield self._event("stage", f"round {number}: measuring")
            if number > 0:
                self.yardstick = self.yardstick or self.first.find_yardstick()
                job.yardstick = self.yardstick
            job.finish()
            self.yardstick = self.yardstick or job.yardstick
        return load(path, verify=False, task=_own_task(job))

    def _reached(self, bundle: Bundle) -> tuple[float, float]:
        """Give the best that a round did on the validation rows: what selects, then minus the loss."""
        selects_by = str(bundle.plan.options["select_by"])
        events = run_folder.Log(bundle.path).read()
        return max(
            (goodness(selects_by, event.values[selects_by]), -event.values["loss"])
            for event in events
            if event.kind == "evaluation" and "best" in event.values
        )

    def _compared(self, best: Bundle, other: Bundle, *, is_better: bool) -> dict[str, Any]:
        """Compare a round with the best before it, on the validation rows and, paired, on the test rows."""
        task, test, metric = best.task, self.intake.splits.test, best.gain.after.main
        values = [
            [value for value, _, _ in task.decode(bundle.answer(test), labels=bundle.labels)]
            for bundle in (other, best)
        ]
        difference = task.difference(test, values[0], values[1], metric=metric, seed=best.plan.seed)
        return {
            "valid_metric": str(best.plan.options["select_by"]),
            "valid_before": abs(self._reached(best)[0]),
            "valid_after": abs(self._reached(other)[0]),
            "test_before": best.gain.after.value,
            "test_after": other.gain.after.value,
            "difference": to_json(difference),
            "is_kept": is_better,
        }

    def _settle(self, best: Bundle, rounds: list[dict[str, Any]]) -> None:
        """Put the best round, with the account of all of them, in the run's place."""
        assert self.folder is not None
        self.account = {
            "file": self.recipe.unlabelled,
            "rounds": rounds,
            "said": [sentence for told in rounds for sentence in sentences(told, best.gain.after.main)],
        }
        final = self.folder / ROUNDS / "final"
        shutil.rmtree(final, ignore_errors=True)
        shutil.copytree(best.path, final, ignore=shutil.ignore_patterns(*unfinished.WORKING))
        tell(final, self.account, self.recipe_text, seconds=self._clock())
        promote(final, self.folder)
        shutil.rmtree(self.folder / ROUNDS, ignore_errors=True)

    def _clock(self) -> float:
        return time.perf_counter() - self._started

    def _event(self, kind: Any, text: str, **values: float) -> Event:
        return Event(kind, self._clock(), 0, values, text)


def prepare_self_training(recipe: Recipe, *, folder: Path | None = None) -> SelfTraining:
    """Read the labelled rows and make the first round ready.

    Args:
        recipe: With `unlabelled`.
        folder: Of a run that is gone on with.

    Raises:
        PlanProblem: Task, method or other keys do not go with it; and whatever `prepare` raises.
    """
    if recipe.budget:
        what = (
            "a budget is for one run after the other until the time is over, and self-training has an order of its own"
        )
        raise PlanProblem(what, where="budget", do="leave out budget, or unlabelled")
    demand_alone("self-training runs in one process")
    sha256 = data.read(recipe.unlabelled).sha256  # a file that is not there is told before anything is trained
    memo, plain = Memo(), dataclasses.replace(recipe, unlabelled="")
    rows = take_in(plain)
    if reason := why_not(rows.task):
        what = f"this task cannot learn from its own answers: {reason}"
        raise PlanProblem(what, where="unlabelled", do="leave out unlabelled")
    if recipe.method != AUTO:
        _demand_method(recipe.method)
    first = prepare(plain, memo=memo, rows=rows, **({} if folder is None else _kept(folder / ROUNDS / "0")))
    _demand_method(first.recipe.method)
    whole = dataclasses.replace(first.recipe, unlabelled=recipe.unlabelled)
    found = SelfTraining(whole, first, rows, sha256, memo, folder=folder, is_resumed=folder is not None)
    found.remarks = [*first.remarks, f"the plan is of the first round; {Path(recipe.unlabelled).name} is read after it"]
    if recipe.track:
        found.remarks.append("the events of self-training are sent to no tracker")
    if reason := why_not_weighed(first.intake.task):
        found.remarks.append(f"pseudo_weight is left aside, added rows count as much as labelled ones: {reason}")
    return found


def _kept(folder: Path) -> dict[str, Path]:
    """Give where an earlier start of a round has kept what need not be made again."""
    return {"encoded": folder / unfinished.ENCODED, "copies": folder / unfinished.COPIES}


def _demand_method(name: str) -> None:
    """Refuse a method in which further rows have no place."""
    method = find_method(name)
    if hasattr(method, "deal") or not is_trained(method):
        reason = "deals its rows in its own way" if hasattr(method, "deal") else "learns nothing"
        what = f"method '{name}' {reason}: further rows have no place in it"
        raise PlanProblem(what, where="unlabelled", do="leave out unlabelled, or use another method")


def resume_self_training(path: str | Path) -> SelfTraining:
    """Make ready to go on with a run that was broken off.

    Raises:
        BundleProblem: There is no run, it is finished, or its files, base model or recipe have changed since.
    """
    folder = run_folder.old_folder(path)
    if (folder / MANIFEST).is_file():
        shutil.rmtree(folder / ROUNDS, ignore_errors=True)  # left by a kill right after the manifest
        raise finished(folder)
    recipe = make_recipe(read_recipe(folder / "recipe.yaml"), where=str(folder / "recipe.yaml"))
    kept = read_plan(folder)
    if recipe.threads == AUTO:
        recipe = dataclasses.replace(recipe, threads=kept.threads)
    found = prepare_self_training(recipe, folder=folder)
    found.remarks += demand_same(kept, found.plan, folder)
    done = sorted(item.parent.name for item in (folder / ROUNDS).glob(f"[0-9]*/{MANIFEST}"))
    found.remarks.append(f"going on; finished rounds: {', '.join(done) or 'none'}")
    return found


def is_resumed_self_training(path: str | Path) -> bool:
    """Whether an unfinished run is one of self-training."""
    recipe = Path(path).expanduser() / "recipe.yaml"
    return recipe.is_file() and is_self_training(make_recipe(read_recipe(recipe), where=str(recipe)))


def _own_task(job: Job) -> Any:
    return None if job.plan.task in TASKS else getattr(job.intake.task, "inner", job.intake.task)


def _with_file(plan: Plan, path: str, sha256: str) -> Plan:
    files = {**plan.data["files"], "unlabelled": {"path": path, "sha256": sha256}}
    return dataclasses.replace(plan, data={**plan.data, "files": files})
