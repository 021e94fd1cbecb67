"""The same rows with each method: one run in a process of its own for each, and what it gained and cost.

runs/reviews-methods/
  METHOD/  or METHOD-SEED/    the finished run of each
  costs/METHOD.json           what it cost; recipes/METHOD.yaml, what was asked of it
  result.json, report.html
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import write_file, write_json
from tunesmith.bundle.load import Bundle, load
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.methods import find_method
from tunesmith.metrics import goodness
from tunesmith.search.method_runs import MethodRun, OnEvent, in_words, train_method
from tunesmith.tasks import Task
from tunesmith.training import folder as run_folder
from tunesmith.training.intake import take_in
from tunesmith.training.recipe import Recipe, canonical, make_recipe, read_recipe
from tunesmith.types import Difference, Event, Record, Scores


@dataclass(frozen=True)
class MethodLine:
    """One method over all seeds."""

    method: str
    runs: tuple[MethodRun, ...]
    value: float | None  # mean over the seeds that are done
    interval: tuple[float, float] | None  # 95% bootstrap interval of one seed; of several, lowest and highest
    difference: Difference | None  # to the best method, paired; of several seeds the mean

    def mean(self, name: str) -> float:
        """Give the mean of a number over the runs that are done."""
        done = [float(getattr(run, name) or 0.0) for run in self.runs if run.state == "done"]
        return sum(done) / max(1, len(done))

    @property
    def is_done(self) -> bool:
        """Whether any run of it is."""
        return self.value is not None


@dataclass(frozen=True)
class MethodComparison:
    """All methods, best first; those that declined or failed come last."""

    folder: Path
    task: str
    base: str
    metric: str
    seeds: tuple[int, ...]
    rows: Mapping[str, int]  # in each part, with the first seed
    lines: tuple[MethodLine, ...]
    baselines: Mapping[str, Scores]  # of the best run
    seconds: float  # of this call

    @property
    def best(self) -> MethodLine | None:
        """The method with the best score."""
        return self.lines[0] if self.lines and self.lines[0].is_done else None


def compare_methods(
    data: str | Path,
    *,
    methods: Sequence[str],
    seeds: int = 1,
    on_event: OnEvent = lambda _: None,
    stop_signal: Callable[[], int] = lambda: 0,
    **options: Any,
) -> MethodComparison:
    """Train a run with each method, one after the other, and compare them on the same test rows.

    Finished runs of an earlier call with the same `out` are taken as they are, unfinished ones go on.

    Args:
        data: A file of labelled rows, or a recipe.
        methods: By name.
        seeds: How many; the first is the recipe's, and without a test file each seed has its own test rows.
        on_event: Called with each Event as it happens; "note" events say which method begins and how it ended.
        stop_signal: Asked at each event; a signal's number saves the run and stops.
        options: Recipe keys that all have in common.

    Raises:
        PlanProblem: No such method, or the folder holds runs of something else.
        Stopped: `stop_signal` said so; the same call goes on.
    """
    started = time.perf_counter()
    is_recipe = Path(data).suffix in {".yaml", ".yml"}
    values = {**read_recipe(Path(data)), **canonical(options)} if is_recipe else {"data": str(data), **options}
    recipe = make_recipe(values)
    chosen = list(dict.fromkeys(methods))
    for name in chosen:
        find_method(name)
    if recipe.budget:
        raise PlanProblem(
            "the recipe has a budget, and methods are compared by what they cost when nothing cuts them off",
            where="budget",
            do="leave it out",
        )
    if not chosen or seeds < 1:
        raise PlanProblem("there is nothing to compare", where="--methods", do="name some: --methods full,lora,adapter")
    folder = _folder(recipe)
    numbers = tuple(recipe.seed + step for step in range(seeds))
    wanted = [(method, seed) for seed in numbers for method in chosen]
    runs = []
    for place, (method, seed) in enumerate(wanted, 1):
        one = dataclasses.replace(recipe, method=method, seed=seed, out="")
        name = method if seeds == 1 else f"{method}-{seed}"
        on_event(Event("note", time.perf_counter() - started, step=place, text=f"{name} ({place} of {len(wanted)})"))
        run = train_method(one, folder, name.replace(":", "-"), on_event, stop_signal)
        on_event(Event("note", time.perf_counter() - started, step=place, text=f"{name}: {in_words(run)}"))
        runs.append(run)
    found = _compared(recipe, folder, runs, numbers, started)
    from tunesmith.search.compare_report import render_methods

    write_json(folder / "result.json", found)
    write_file(folder / "report.html", render_methods(found))
    return found


def _folder(recipe: Recipe) -> Path:
    """Give the comparison's folder; one that an earlier call has made is gone on with."""
    if not recipe.data:
        raise DataProblem("no data was given", where="data", do="tunesmith compare-methods FILE --methods full,lora")
    stem = Path(recipe.data).name.removesuffix(".gz")
    stem = stem.removesuffix(Path(stem).suffix) or "run"
    path = Path(recipe.out).expanduser() if recipe.out else Path("runs") / f"{stem}-methods"
    if not (path / "recipes").is_dir():
        path = run_folder.new_folder(str(path), recipe.data, "compare-methods")
    for name in ("recipes", "costs"):
        (path / name).mkdir(exist_ok=True)
    return path


def _compared(
    recipe: Recipe, folder: Path, runs: Sequence[MethodRun], seeds: tuple[int, ...], started: float
) -> MethodComparison:
    """Rank the methods, and compare each with the best one on the rows that both answered."""
    done = [run for run in runs if run.scores is not None]
    metric = done[0].scores.main if done and done[0].scores else ""
    lines = [
        _line(method, [run for run in runs if run.method == method]) for method in dict.fromkeys(r.method for r in runs)
    ]
    lines.sort(key=lambda line: (not line.is_done, -goodness(metric, line.value) if line.value is not None else 0.0))
    best = lines[0] if lines[0].is_done else None
    if best is not None:
        answers = _Answers(recipe)
        lines = [dataclasses.replace(line, difference=_difference(line, best, metric, answers)) for line in lines]
    first = load(best.runs[0].path, verify=False) if best is not None and best.runs[0].state == "done" else None
    return MethodComparison(
        folder=folder,
        task=first.plan.task if first else recipe.task,
        base=recipe.model,
        metric=metric,
        seeds=seeds,
        rows={part: int(first.plan.data[part]) for part in ("train", "valid", "test")} if first else {},
        lines=tuple(lines),
        baselines=first.gain.baselines if first else {},
        seconds=time.perf_counter() - started,
    )


def _line(method: str, runs: Sequence[MethodRun]) -> MethodLine:
    scores = [run.scores for run in runs if run.scores is not None]
    values = [each.value for each in scores]
    if not values:
        return MethodLine(method, tuple(runs), None, None, None)
    interval = scores[0].interval if len(scores) == 1 else (min(values), max(values))
    return MethodLine(method, tuple(runs), sum(values) / len(values), interval, None)


class _Answers:
    """The test rows of each seed, and what each run answers to them: each found out once."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._rows: dict[int, tuple[Task, Sequence[Record], str]] = {}
        self._values: dict[Path, list[Any]] = {}

    def rows(self, seed: int) -> tuple[Task, Sequence[Record], str]:
        """Give the task, the test rows and the fingerprint of all rows."""
        if seed not in self._rows:
            intake = take_in(dataclasses.replace(self.recipe, seed=seed))
            self._rows[seed] = (intake.task, intake.splits.test, intake.splits.fingerprint)
        return self._rows[seed]

    def values(self, run: MethodRun, bundle: Bundle) -> list[Any]:
        """Give the run's decoded answers to the test rows of its seed."""
        if run.path not in self._values:
            decoded = bundle.task.decode(bundle.answer(self.rows(run.seed)[1]), labels=bundle.labels)
            self._values[run.path] = [value for value, _, _ in decoded]
        return self._values[run.path]


def _difference(line: MethodLine, best: MethodLine, metric: str, answers: _Answers) -> Difference | None:
    """Give the method minus the best, paired over the test rows; of several seeds the mean of value and interval.

    None for the best itself, and where the method was measured on other rows.
    """
    found = []
    for run, other in zip(line.runs, best.runs, strict=True):
        if line.method == best.method or run.state != "done" or other.state != "done":
            continue
        bundles = load(run.path, verify=False), load(other.path, verify=False)
        task, rows, fingerprint = answers.rows(run.seed)
        if any(bundle.plan.data["fingerprint"] != fingerprint for bundle in bundles):
            continue
        mine, theirs = answers.values(run, bundles[0]), answers.values(other, bundles[1])
        found.append(task.difference(rows, mine, theirs, metric=metric, seed=run.seed))
    if not found:
        return None
    count = len(found)
    low, high = (sum(each.interval[end] for each in found) / count for end in (0, 1))
    return Difference(metric, sum(each.value for each in found) / count, (low, high), sum(each.n for each in found))
