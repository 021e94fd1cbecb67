"""Five updates in a row: how much is forgotten, how good is the end, and what did it cost against a full retrain?

    python benchmarks/continual.py FOLDER --scenario classes --seeds 5

FOLDER holds clinc150_en (for `classes` and `labels`), or sst2_en, airline_tweets_en and financial_phrasebank_en (for
`domains`), each with train and test as CSV of text and label.

- classes: each update brings 25 intents that the model has never seen.
- domains: film reviews, then tweets about airlines in three parts, then financial news in two.
- labels: all intents are known from the start, but each update is nearly all of a fifth of them.

Every strategy is a chain of updates from the same first training; `retrain` is made once, for the last update, from all
rows of the replay chain. Scores are points of accuracy. Forgetting is each test set's first score minus its last.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import find_set

import tunesmith
from tunesmith.training.recipe import read_sets
from tunesmith.updating.options import UpdateOptions
from tunesmith.updating.prepare import prepare_update
from tunesmith.updating.update import Update

UPDATES = 5
Row = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """What one training or update brings."""

    train: list[Row]
    test: list[Row]


@dataclass(frozen=True)
class Figures:
    """What a chain of updates came to."""

    strategy: str
    seed: int
    average: float  # of the last row of the matrix
    forgetting: float  # mean over the old test sets
    backward: float
    forward: float | None
    seconds: float  # CPU seconds of the training loop: of all updates, for retrain of the one
    last_seconds: float  # of the last update alone
    matrix: tuple[tuple[float, ...], ...]


def read(folder: Path, name: str, part: str) -> list[Row]:
    path = next(path for path in sorted(find_set(folder, name).glob(f"{part}.csv*")))
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file) if row["label"] != "oos"]


def classes(folder: Path, seed: int, rows: int) -> list[Task]:
    return [_with_labels(folder, group, seed, rows) for group in _label_groups(folder, seed, UPDATES + 1)]


def labels(folder: Path, seed: int, rows: int) -> list[Task]:
    train = _shuffled(read(folder, "clinc150_en", "train"), seed)
    test = _shuffled(read(folder, "clinc150_en", "test"), seed)
    first: dict[str, list[Row]] = {}
    for row in train:
        first.setdefault(row[1], []).append(row)
    start = [row for some in first.values() for row in some[: max(5, rows // len(first))]]
    rest = [row for some in first.values() for row in some[max(5, rows // len(first)) :]]
    groups = _label_groups(folder, seed, UPDATES)
    tasks = [Task(start, _spread(test, UPDATES + 1, 0))]
    for number, group in enumerate(groups, 1):
        mine = [row for row in rest if row[1] in group]
        others = [row for row in rest if row[1] not in group]
        wanted = min(rows, len(mine))
        tested = [row for row in _spread(test, UPDATES + 1, number) if row[1] in group]
        tasks.append(Task(mine[:wanted] + _spread(others, UPDATES, number - 1)[: wanted // 10], tested))
    return tasks


def domains(folder: Path, seed: int, rows: int) -> list[Task]:
    tasks = []
    for name, parts in (("sst2_en", 1), ("airline_tweets_en", 3), ("financial_phrasebank_en", 2)):
        train, test = (_shuffled(read(folder, name, part), seed) for part in ("train", "test"))
        tasks += [Task(_spread(train, parts, part)[:rows], _spread(test, parts, part)) for part in range(parts)]
    return tasks


SCENARIOS = {"classes": classes, "domains": domains, "labels": labels}


def _shuffled(rows: Iterable[Row], seed: int) -> list[Row]:
    found = list(dict.fromkeys(rows))
    random.Random(seed).shuffle(found)
    return found


def _spread(rows: Sequence[Row], parts: int, part: int) -> list[Row]:
    return list(rows[part::parts])


def _label_groups(folder: Path, seed: int, count: int) -> list[set[str]]:
    names = sorted({label for _, label in read(folder, "clinc150_en", "train")})
    random.Random(seed).shuffle(names)
    return [set(names[place::count]) for place in range(count)]


def _with_labels(folder: Path, group: set[str], seed: int, rows: int) -> Task:
    train, test = (_shuffled(read(folder, "clinc150_en", part), seed) for part in ("train", "test"))
    return Task([row for row in train if row[1] in group][:rows], [row for row in test if row[1] in group])


def write(rows: Sequence[Row], path: Path) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def chain(
    start: Path, tasks: Sequence[tuple[str, str]], strategy: str, settings: dict[str, Any]
) -> tuple[list[Update], list[float], Path]:
    """Make every update in turn; give them, the CPU seconds of each, and the folder of the last but one."""
    parent, before, made, seconds = start, start, [], []
    for number, (train, test) in enumerate(tasks, 1):
        before = parent
        out = str(start.parent / f"{strategy}-{number}")
        update = prepare_update(parent, options(strategy, train, test, out, settings))
        seconds.append(finish(update))
        made.append(update)
        parent = Path(out)
    return made, seconds, before


def options(strategy: str, train: str, test: str, out: str, settings: dict[str, Any]) -> UpdateOptions:
    return UpdateOptions(strategy=strategy, data=train, test=test, out=out, recipe=settings)


def finish(update: Update) -> float:
    """Make an update; give the CPU seconds of its training."""
    began = time.perf_counter()
    stages = [(event.text, time.process_time()) for event in update.run() if event.kind == "stage"]
    first = next(place for place, (text, _) in enumerate(stages) if text.startswith("training"))
    seconds = stages[first + 1][1] - stages[first][1]
    assert update.lineage is not None
    note, lineage = update.note, update.lineage
    last = " ".join(f"{100 * score:.1f}" for score in lineage.matrix[-1])
    print(
        f"  {note['strategy']:<8} update {note['number']}: {note['new']} new, {note['replayed']} old rows, "
        f"{seconds:.0f} CPU s of training, {time.perf_counter() - began:.0f} s in all; {last}",
        flush=True,
    )
    return seconds


def figures(made: Sequence[Update], seconds: Sequence[float], strategy: str, seed: int) -> Figures:
    lineage = made[-1].lineage
    assert lineage is not None
    return Figures(
        strategy,
        seed,
        lineage.average,
        lineage.mean_forgetting,
        lineage.backward_transfer,
        lineage.forward_transfer,
        sum(seconds),
        seconds[-1],
        lineage.matrix,
    )


def one_seed(scenario: str, folder: Path, seed: int, given: argparse.Namespace) -> list[Figures]:
    tasks = SCENARIOS[scenario](folder, seed, given.rows)
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        files = [
            (
                write(task.train, root / f"{number}-train.csv"),
                write(task.test[: given.test_rows], root / f"{number}.csv"),
            )
            for number, task in enumerate(tasks)
        ]
        settings = {"seed": seed, **read_sets(given.set)}
        start = tunesmith.train(files[0][0], test=files[0][1], out=str(root / "runs" / "first"), **settings)
        print(f"seed {seed}: first training {start.gain.after.value:.3f}", flush=True)
        before = start.path
        for strategy in given.strategies.split(","):
            if strategy == "retrain":
                update = prepare_update(before, options(strategy, *files[-1], str(root / "runs" / "retrain"), settings))
                found.append(figures([update], [finish(update)], strategy, seed))
                continue
            made, seconds, last = chain(start.path, files[1:], strategy, settings)
            before = last if strategy not in {"naive", "ewc"} else before
            found.append(figures(made, seconds, strategy, seed))
    return found


def show(found: Sequence[Figures]) -> None:
    print(
        f"\n{'strategy':<10}{'seeds':>6}{'average':>10}{'forgetting':>12}{'backward':>10}{'forward':>9}"
        f"{'last update':>13}"
    )
    for strategy in dict.fromkeys(each.strategy for each in found):
        some = [each for each in found if each.strategy == strategy]
        forward = [each.forward for each in some if each.forward is not None]
        mean = statistics.mean
        shown = f"{100 * mean(forward):+.1f}" if forward else "-"
        print(
            f"{strategy:<10}{len(some):>6}{100 * mean(each.average for each in some):>10.1f}"
            f"{100 * mean(each.forgetting for each in some):>+12.1f}"
            f"{100 * mean(each.backward for each in some):>+10.1f}{shown:>9}"
            f"{mean(each.last_seconds for each in some):>11.0f} s"
        )
    whole = {each.seed: each for each in found if each.strategy == "retrain"}
    for strategy in dict.fromkeys(each.strategy for each in found if each.strategy != "retrain"):
        pairs = [(each, whole[each.seed]) for each in found if each.strategy == strategy and each.seed in whole]
        if pairs:
            behind = statistics.mean(100 * (other.average - each.average) for each, other in pairs)
            cost = statistics.mean(each.last_seconds / max(other.last_seconds, 1e-9) for each, other in pairs)
            print(
                f"{strategy}: {behind:+.1f} points behind the retrain, at {cost:.0%} of the CPU seconds of its training"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenario", choices=SCENARIOS, default="classes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=2500, help="training rows of each step at most")
    parser.add_argument("--test-rows", type=int, default=900, help="test rows of each step at most")
    parser.add_argument(
        "--strategies", default="auto,naive,retrain", help="auto is replay, with distillation where labels are new"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe keys of every run")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    found: list[Figures] = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        found += one_seed(given.scenario, given.folder, seed, given)
        if given.out:
            given.out.write_text(json.dumps([vars(each) for each in found], indent=2) + "\n", encoding="utf-8")
    show(found)


if __name__ == "__main__":
    main()
