"""Put several bundles side by side on the same rows: who is better, on which label, and where they differ."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.bundle.evaluate import read_labelled
from tunesmith.bundle.load import Bundle, load
from tunesmith.errors import BundleProblem
from tunesmith.tasks import Task
from tunesmith.types import Comparison, Record, Scores, to_json

MOST_CHANGED = 50


def compare(
    runs: Sequence[str | Path | Bundle],
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    max_rejected: float = 0.05,
    engine: str = "auto",
) -> Comparison:
    """Answer every row of a labelled file with each run and compare the answers by a paired bootstrap.

    Args:
        runs: Two or more run folders or open bundles, of the same task.
        path: The labelled file.
        columns: Role -> column, where it is not as in the first run's training.
        max_rejected: Largest share of unusable rows.
        engine: What answers, see `load`; of no effect on bundles that are open.

    Raises:
        BundleProblem: Fewer than two runs, or runs of different tasks.
        DataProblem: The file cannot be used.
    """
    bundles = [run if isinstance(run, Bundle) else load(run, engine=engine) for run in runs]
    _demand_comparable(bundles)
    records, inspection = read_labelled(bundles[0], path, columns=columns, max_rejected=max_rejected)
    found = compare_on(bundles, records)
    return dataclasses.replace(found, rejected=inspection.rejected, problems=inspection.problems)


def compare_on(bundles: Sequence[Bundle], records: Sequence[Record]) -> Comparison:
    """Answer labelled rows with each of several open bundles of one task, as `compare` does those of a file."""
    names = names_of(bundles)
    metric = str(bundles[0].plan.options["metric"])
    seed = bundles[0].plan.seed
    scores: dict[str, Scores] = {}
    values: dict[str, list[Any]] = {}
    for name, bundle in zip(names, bundles, strict=True):
        answers = bundle.answer(records)
        scores[name] = bundle.task.score(records, answers, labels=bundle.labels, main=metric, seed=seed)
        values[name] = [value for value, _, _ in bundle.task.decode(answers, labels=bundle.labels)]
    task = bundles[0].task
    differences = {
        f"{one} - {other}": task.difference(records, values[one], values[other], metric=metric, seed=seed)
        for one, other in itertools.combinations(names, 2)
    }
    changed = [row for row in range(len(records)) if any(values[name][row] != values[names[0]][row] for name in names)]
    return Comparison(
        metric=metric,
        scores=scores,
        differences=differences,
        winners=_winners(scores),
        changed=tuple(
            _shown(task, records[row], {name: values[name][row] for name in names}) for row in changed[:MOST_CHANGED]
        ),
        changed_count=len(changed),
        n=len(records),
    )


def _demand_comparable(bundles: Sequence[Bundle]) -> None:
    if len(bundles) < 2:
        raise BundleProblem("one run alone cannot be compared", do="tunesmith compare RUN RUN --data test.csv")
    if len({bundle.path.resolve() for bundle in bundles}) < len(bundles):
        raise BundleProblem("the same run is given twice", do="name each run once")
    tasks = {bundle.task.name for bundle in bundles}
    if len(tasks) > 1:
        raise BundleProblem(
            f"these runs are for different tasks: {', '.join(sorted(tasks))}", do="compare runs of one task"
        )


def names_of(bundles: Sequence[Bundle]) -> list[str]:
    """Name each run by its folder; where two folders are called the same, by their paths."""
    names = [bundle.name for bundle in bundles]
    return names if len(set(names)) == len(names) else [str(bundle.path) for bundle in bundles]


def _winners(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    labels = {label for each in scores.values() for label, row in each.per_label.items() if row.get("support")}
    return {
        label: dict(
            sorted(
                ((name, each.per_label.get(label, {}).get("f1", 0.0)) for name, each in scores.items()),
                key=lambda item: -item[1],
            )
        )
        for label in sorted(labels)
    }


def _shown(task: Task, record: Record, answers: dict[str, Any]) -> dict[str, object]:
    return {
        "text": task.text_of(record.fields),
        "row": str(record.origin),
        "expected": to_json(record.target),
        "answers": {name: to_json(value) for name, value in answers.items()},
        "right": [name for name, value in answers.items() if task.is_right(record, value)],
    }
