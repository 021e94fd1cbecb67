"""What choosing rows to label brings: the score after each round, for chosen rows and for rows drawn by chance.

The labels of a labelled file are hidden and revealed. Both ways begin with the same rows and are measured on the same
test rows; each round trains anew on all labels revealed so far. Where a method leaves the lowest blocks alone their
states are computed once for all rounds of all seeds.

runs/reviews-labels/
  rounds.jsonl                 what is done so far; removed at the end
  result.json, report.html
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle.atomic import write_file, write_json
from tunesmith.bundle.worth_labelling import (
    answers_and_states,
    demand_by,
    leanings,
    pick_far,
    pick_spread,
    pick_unsure,
    uncertainties,
)
from tunesmith.data.store import choose
from tunesmith.errors import PlanProblem
from tunesmith.metrics import goodness
from tunesmith.models.find import find_base, key_of
from tunesmith.search.label_bench import Bench, demand_method, settings_of
from tunesmith.search.label_rounds import FILE, Round, Rounds
from tunesmith.training import folder as run_folder
from tunesmith.training.intake import Intake, take_in
from tunesmith.training.job import Job
from tunesmith.training.recipe import AUTO, Recipe, make_recipe
from tunesmith.types import Difference, Event, Scores, Splits

CHANCE = "chance"
_QUICK: dict[str, Any] = {"method": "top-layers", "top_layers": 1}
_ELSEWHERE = (
    "data",
    "valid",
    "test",
    "model",
    "out",
    "threads",
    "track",
)  # keys that are compared by what they lead to
_LEAST_VALID = 100  # validation rows that are used, unless more are revealed at the start
_MOST_POOL = 20_000  # rows whose labels are hidden; a sample of larger files

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Point:
    """One way of choosing after so many labels."""

    by: str
    labelled: int  # training rows whose labels are revealed
    values: tuple[float, ...]  # of the main metric on the test rows, by seed

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)


@dataclass(frozen=True)
class LabelCurve:
    """Chosen rows against rows by chance."""

    folder: Path
    data: str
    task: str
    base: str
    method: str
    metric: str
    by: str
    seeds: tuple[int, ...]
    rows: Mapping[str, int]  # pool, valid, test
    points: tuple[Point, ...]  # of both ways, by the number of labels
    differences: tuple[Difference, ...]  # chosen minus chance after each round, paired; mean of the seeds
    everything: Scores | None  # with all labels revealed, first seed
    seconds: float

    def curve(self, by: str) -> list[Point]:
        """Give the points of one way."""
        return [point for point in self.points if point.by == by]


def simulate(
    path: str | Path,
    *,
    by: str = "both",
    rounds: int = 6,
    per_round: int = 50,
    start: int | None = None,
    seeds: int = 3,
    out: str = "",
    on_event: OnEvent = lambda _: None,
    stop_signal: Callable[[], int] = lambda: 0,
    **options: Any,
) -> LabelCurve:
    """Draw the learning curve of chosen rows and of rows by chance.

    Rounds that an earlier call with the same `out` has done are taken as they are.

    Args:
        path: A labelled file.
        by: As for `suggest`.
        rounds: How often labels are revealed.
        per_round: Rows of each round.
        start: Rows to begin with, drawn by chance with every label among them; default: as many as of a round.
        seeds: How often all is repeated, each time with other first rows and other training.
        out: The folder to make.
        on_event: Called with a "note" for each run.
        stop_signal: Asked after every step; a signal's number stops.
        options: Recipe keys.

    Raises:
        PlanProblem: The numbers do not fit the data, or the task cannot say how sure it is.
        Stopped: `stop_signal` said so; the same call goes on after the last round that was done.
    """
    started = time.perf_counter()
    first = per_round if start is None else start
    if min(rounds, per_round, first, seeds) < 1:
        raise PlanProblem("rounds, rows and seeds are 1 or more", where="--simulate", do="--rounds 6 --per-round 50")
    recipe = make_recipe({**_QUICK, **options, "data": str(path), "out": out})
    if recipe.method != AUTO:
        demand_method(recipe.method)
    rows = take_in(recipe)
    demand_by(by, rows.task)
    rows = _small(rows, first, rounds * per_round, recipe)
    folder, sizes = _folder(recipe), (first, rounds, per_round)
    done, say = Rounds(folder, _key(recipe, rows, by, sizes)), _teller(on_event, started)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as states:
        bench = Bench(recipe, rows, Path(states), stop_signal=stop_signal)
        numbers = tuple(recipe.seed + step for step in range(seeds))
        found = [_one_seed(bench, seed, by, sizes, done=done, say=say) for seed in numbers]
        everything = bench.train(range(len(rows.splits.train)), recipe.seed)
        say(f"all {len(rows.splits.train):,} labels: {everything.scores.value:.3f}")
    curve = LabelCurve(
        folder=folder,
        data=str(path),
        task=rows.task.name,
        base=recipe.model,
        method=everything.job.recipe.method,
        metric=everything.scores.main,
        by=by,
        seeds=numbers,
        rows={"pool": len(rows.splits.train), "valid": len(rows.splits.valid), "test": len(rows.splits.test)},
        points=_points(by, sizes, found),
        differences=_mean_differences([[one.difference for one in each if one.difference] for each in found]),
        everything=everything.scores,
        seconds=time.perf_counter() - started,
    )
    from tunesmith.search.label_report import render_curve

    write_json(folder / "result.json", curve)
    write_file(folder / "report.html", render_curve(curve))
    done.forget()
    return curve


def _folder(recipe: Recipe) -> Path:
    """Give the folder; one that an earlier call has begun is gone on with."""
    stem = Path(recipe.data).name.removesuffix(".gz")
    name = f"{stem.removesuffix(Path(stem).suffix) or 'run'}-labels"
    path = Path(recipe.out).expanduser() if recipe.out else Path("runs") / name
    return path if (path / FILE).is_file() else run_folder.new_folder(recipe.out, name, "suggest --simulate")


def _key(recipe: Recipe, rows: Intake, by: str, sizes: tuple[int, int, int]) -> str:
    """Give a hash over all that decides the rounds of a seed: files by what is in them."""
    settings = {name: str(value) for name, value in vars(recipe).items() if name not in _ELSEWHERE}
    return key_of(rows.splits.fingerprint, find_base(recipe.model).sha256, settings, by, sizes)


def _small(rows: Intake, first: int, more: int, recipe: Recipe) -> Intake:
    """Give the rows with a pool of at most `_MOST_POOL`, and no more validation rows than somebody with few labels has.

    Raises:
        PlanProblem: There are fewer rows than would be revealed.
    """
    splits, chance = rows.splits, random.Random(f"{recipe.seed}/pool")

    def some(part: Sequence[Any], most: int) -> Sequence[Any]:
        return part if len(part) <= most else choose(part, sorted(chance.sample(range(len(part)), most)))

    train = some(splits.train, _MOST_POOL)
    valid = some(splits.valid, max(_LEAST_VALID, first))
    if first + more > len(train):
        raise PlanProblem(
            f"{first + more:,} labels would be revealed, and there are {len(train):,} training rows",
            where=recipe.data,
            do="ask for fewer: --rounds, --per-round, --start",
        )
    fingerprint = data.fingerprint(train, valid, splits.test)
    return dataclasses.replace(rows, splits=Splits(train, valid, splits.test, fingerprint))


def _one_seed(
    bench: Bench, seed: int, by: str, sizes: tuple[int, int, int], *, done: Rounds, say: Callable[[str], None]
) -> list[Round]:
    """Reveal labels round by round, both ways; rounds that are done already are taken as they are."""
    first, rounds, per_round = sizes
    task, train, test = bench.rows.task, bench.rows.splits.train, bench.rows.splits.test
    chance = random.Random(f"{seed}/labels")
    begin = first_rows(task.labels_of, train, first, chance)
    left = [place for place in range(len(train)) if place not in set(begin)]
    chance.shuffle(left)
    chosen, last = list(begin), None
    found = []
    for number in range(rounds + 1):
        one = done.find(seed, number)
        if one is None and number == 0:
            last = bench.train(begin, seed)
            one = done.keep(Round(seed, 0, last.scores.main, last.scores.value, last.scores.value))
        elif one is None:
            last = last or bench.train(sorted(chosen), seed)  # it was trained by a call that was stopped
            hidden = [place for place in range(len(train)) if place not in set(chosen)]
            added = _picked(bench, last.job, hidden, chosen, by=by, count=per_round, seed=seed)
            last = bench.train(sorted([*chosen, *added]), seed)
            other = bench.train(sorted([*begin, *left[: number * per_round]]), seed)
            metric, scores = last.scores.main, (last.scores.value, other.scores.value)
            difference = task.difference(test, last.values, other.values, metric=metric, seed=seed)
            one = done.keep(Round(seed, number, metric, *scores, tuple(added), difference))
        chosen += one.added
        found.append(one)
        say(_in_words(one, by, len(chosen)))
    return found


def _in_words(one: Round, by: str, labels: int) -> str:
    scores = f"{by} {one.chosen:.3f}, {CHANCE} {one.chance:.3f}" if one.number else f"{one.chosen:.3f}"
    return f"seed {one.seed}, {labels:,} labels: {scores}"


def _teller(on_event: OnEvent, started: float) -> Callable[[str], None]:
    return lambda text: on_event(Event("note", time.perf_counter() - started, text=text))


def first_rows(
    labels_of: Callable[[Any], tuple[str, ...]], train: Sequence[Any], count: int, chance: random.Random
) -> list[int]:
    """Draw the rows to begin with: one of each label while there is room, then any."""
    order = list(range(len(train)))
    chance.shuffle(order)
    targets = [record.target for record in train]
    seen: set[str] = set()
    begin: list[int] = []
    for place in order:
        if len(begin) < count and not set(labels_of(targets[place])) <= seen:
            seen |= set(labels_of(targets[place]))
            begin.append(place)
    taken = set(begin)
    return sorted([*begin, *(place for place in order if place not in taken)][:count])


def _picked(
    bench: Bench, job: Job, hidden: Sequence[int], chosen: Sequence[int], *, by: str, count: int, seed: int
) -> list[int]:
    """Choose among the hidden rows as `suggest` does, with the model that was trained last."""
    task, examples = job.intake.task, bench.pool
    with bench.spared(job):
        answers, states_NH = answers_and_states(task, job.model, examples, **settings_of(job))
    decoded = list(task.decode(answers, labels=job.plan.labels))
    unsure_N = uncertainties(task, decoded, answers)[list(hidden)]
    if by == "uncertainty":
        places = pick_unsure(unsure_N, count)
    elif by == "diversity":
        places, _ = pick_far(states_NH[list(hidden)], count, known_MH=states_NH[list(chosen)])
    else:
        some = [decoded[place] for place in hidden]
        leanings_NL = leanings(task, some, unsure_N, job.plan.labels)
        places = pick_spread(leanings_NL, states_NH[list(hidden)], count, seed=seed)
    return [hidden[place] for place in places]


def _points(by: str, sizes: tuple[int, int, int], found: Sequence[Sequence[Round]]) -> tuple[Point, ...]:
    """Put the curves of all seeds together."""
    first, rounds, per_round = sizes
    return tuple(
        Point(way, first + number * per_round, tuple(getattr(each[number], name) for each in found))
        for way, name in ((by, "chosen"), (CHANCE, "chance"))
        for number in range(rounds + 1)
    )


def _mean_differences(found: Sequence[Sequence[Difference]]) -> tuple[Difference, ...]:
    """Give for each round the mean of value and interval over the seeds."""
    count = len(found)
    return tuple(
        Difference(
            each[0].metric,
            sum(one.value for one in each) / count,
            (sum(one.interval[0] for one in each) / count, sum(one.interval[1] for one in each) / count),
            sum(one.n for one in each),
        )
        for each in zip(*found, strict=True)
    )


def labels_saved(curve: LabelCurve) -> int | None:
    """Give how many labels fewer the chosen rows need for what chance reaches at the end; None where they do not."""
    goal = goodness(curve.metric, curve.curve(CHANCE)[-1].value)
    most = curve.curve(CHANCE)[-1].labelled
    reached = [point.labelled for point in curve.curve(curve.by) if goodness(curve.metric, point.value) >= goal]
    return most - min(reached) if reached else None
