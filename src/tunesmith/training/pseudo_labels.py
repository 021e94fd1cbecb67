"""Rows without labels that a run labels itself, as far as it is sure: the gate, the balance, and the account of it.

Nothing of the validation or test rows is ever among them, nor anything that a split would keep beside them.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith import data, metrics
from tunesmith.bundle.load import Bundle, sureness
from tunesmith.bundle.unlabelled import KnownTexts, UnlabelledRows, open_unlabelled
from tunesmith.data.store import Records
from tunesmith.tasks import Answered, Task
from tunesmith.training.intake import Intake
from tunesmith.training.recipe import AUTO, Recipe
from tunesmith.types import Record, Span, Splits, to_json

_AT_ONCE = 512  # rows that are answered together
_SAMPLE = 10  # rows that the report shows
_UNEVEN = 2.0  # no label grows by more than this many times what the label in the middle grows by
NOTHING = ""  # stands for the label of a row that is answered with none


@dataclass(frozen=True)
class Gate:
    """How sure an answer has to be, and what the validation rows say of answers that are."""

    threshold: float | None  # None: no confidence reaches the precision that is wanted
    wanted: float | None  # precision; None where the threshold was given
    n: int  # validation rows whose answers pass
    right: int
    coverage: float  # share of the validation rows that pass
    interval: tuple[float, float] | None  # of the precision, 95%; None where none passes

    @property
    def precision(self) -> float | None:
        """Share of the validation answers that pass which are right."""
        return self.right / self.n if self.n else None


@dataclass(frozen=True)
class Pseudo:
    """What a file of unlabelled rows gave."""

    records: Sequence[Record]  # with the targets that the run has given them
    sha256: str  # of the file
    gate: Gate
    counts: Mapping[str, int]  # what became of every row of the file: see `UnlabelledRows`, and `unsure`, `too many`
    added: Mapping[str, int]  # by label
    confidence: float | None  # mean of those added: the precision that the model itself expects
    sample: tuple[Mapping[str, Any], ...] = field(repr=False)


def why_not(task: Task) -> str | None:
    """Give the reason why a task cannot learn from its own answers; None where it can."""
    if task.target_kind not in {"label", "labels"}:
        return f"answers of task {task.name} are no labels, so that sure ones cannot be told and balanced"
    return None if task.has_confidence else f"task {task.name} cannot say how sure it is"


def find_gate(task: Task, records: Sequence[Record], decoded: Sequence[Answered], recipe: Recipe) -> Gate:
    """Choose the least confidence on the validation rows: as asked, else the lowest at which enough are right."""
    confidence, is_right = sureness(task, records, decoded)
    if recipe.pseudo_confidence == AUTO:
        wanted: float | None = recipe.pseudo_precision
        found = metrics.abstention(confidence, is_right, recipe.pseudo_precision)
        threshold = None if found is None else found["threshold"]
    else:
        wanted, threshold = None, float(recipe.pseudo_confidence)
    passes = confidence >= (math.inf if threshold is None else threshold)
    n, right = int(passes.sum()), int(is_right[passes].sum())
    interval = wilson(right, n) if n else None
    return Gate(threshold, wanted, n, right, n / max(1, len(confidence)), interval)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Give the 95% interval of a share of few rows. Source: Wilson 1927; a bootstrap of 10 out of 10 has no width."""
    z = 1.959964
    share, slack = right / n, z * z / n
    middle = (share + slack / 2) / (1 + slack)
    half = z / (1 + slack) * math.sqrt(share * (1 - share) / n + slack / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def label_rows(bundle: Bundle, path: str, splits: Splits, recipe: Recipe) -> Pseudo:
    """Answer the rows of a file and give those that pass the gate, within the balance of labels.

    The file is read twice as a stream: once to answer it, once to fetch the rows that were chosen.

    Args:
        bundle: Answers; its confidence is calibrated.
        path: Rows without labels; a column of labels is not looked at.
        splits: Of the labelled rows alone: rows whose text stands in any part are left out.
        recipe: `pseudo_confidence`, `pseudo_precision`, `pseudo_most`, and the columns.

    Raises:
        DataProblem: The file cannot be read, or not one of its rows.
    """
    task = bundle.task
    decoded = task.decode(bundle.answer(splits.valid), labels=bundle.labels) if len(splits.valid) else ()
    gate = find_gate(task, splits.valid, decoded, recipe)
    known = KnownTexts(task, {"test": splits.test, "valid": splits.valid, "train": splits.train})
    wanted = {role: column for role, column in recipe.roles.items() if role in task.forms[0].inputs}
    rows = open_unlabelled(bundle, path, known, columns=wanted)
    rarity = Counter(label for record in splits.train for label in task.labels_of(record.target))
    labelled = Counter(_rarest(task, record.target, rarity) for record in splits.train)
    sure = _Surest(max(1, math.ceil(recipe.pseudo_most * max(labelled.values(), default=1))))
    for record, (value, confidence, _) in _answered(bundle, rows):
        target = as_target(value)
        if gate.threshold is None or (confidence or 0.0) < gate.threshold:
            sure.refused += 1
        else:
            sure.take(_rarest(task, target, rarity), confidence or 0.0, record.origin.row, target)
    rows.demand_rows()
    chosen, added = sure.balanced(labelled, recipe.pseudo_most)
    found = Records()
    for record in rows:
        if record.origin.row in chosen:
            _, target = chosen[record.origin.row]
            found.append(dataclasses.replace(record, id=f"pseudo-{record.id}", target=target))
    records = found.settled()
    counts = {**rows.counts, "unsure": sure.refused, "too many": sure.passed - len(records)}
    mean = float(np.mean([confidence for confidence, _ in chosen.values()])) if chosen else None
    return Pseudo(records, rows.source.sha256, gate, counts, added, mean, _shown(task, records, chosen))


def _answered(bundle: Bundle, rows: UnlabelledRows) -> Iterator[tuple[Record, Answered]]:
    waiting = iter(rows)
    while part := list(itertools.islice(waiting, _AT_ONCE)):
        yield from zip(part, bundle.task.decode(bundle.answer(part), labels=bundle.labels), strict=True)


def as_target(value: Any) -> Any:
    """Give an answer as a target of the same task: a label, several, or spans."""
    if isinstance(value, str):
        return value
    if any(hasattr(item, "start") for item in value):
        return tuple(Span(item.start, item.end, item.label) for item in value)
    return tuple(sorted(value))


def _rarest(task: Task, target: Any, rarity: Mapping[str, int]) -> str:
    """Give the label by which a row is counted: of its labels the one that fewest labelled rows have, or `NOTHING`."""
    labels = task.labels_of(target)
    return min(labels, key=lambda label: (rarity.get(label, 0), label)) if labels else NOTHING


class _Surest:
    """The surest answers of each label, so many at most.

    Args:
        most: Rows of one label that are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, list[tuple[float, int, Any]]] = {}
        self.passed = self.refused = 0

    def take(self, label: str, confidence: float, row: int, target: Any) -> None:
        """Take a row that passes the gate; of equally sure ones the earlier stays."""
        self.passed += 1
        heap = self._held.setdefault(label, [])
        step = heapq.heappush if len(heap) < self._most else heapq.heappushpop
        step(heap, (confidence, -row, target))

    def balanced(self, labelled: Mapping[str, int], most: float) -> tuple[dict[int, tuple[float, Any]], dict[str, int]]:
        """Give confidence and target by row, and rows by label: no label far outgrows the others.

        A label may grow `most` times, and `_UNEVEN` times what the label in the middle grows by (at least by as many
        rows as it has): what is answered too often does not swamp the rest.

        Args:
            labelled: Rows by label.
            most: Rows for each labelled one.
        """
        growth = [len(self._held.get(label, ())) / count for label, count in labelled.items()]
        limit = min(most, max(1.0, _UNEVEN * statistics.median(growth))) if growth else most
        chosen: dict[int, tuple[float, Any]] = {}
        added: dict[str, int] = {}
        for label, heap in sorted(self._held.items()):
            kept = heapq.nlargest(max(1, math.floor(limit * labelled.get(label, 1))), heap, key=lambda item: item[:2])
            chosen |= {-row: (confidence, target) for confidence, row, target in kept}
            added[label] = len(kept)
        return chosen, added


def _shown(
    task: Task, records: Sequence[Record], chosen: Mapping[int, tuple[float, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """Give some of the rows, evenly spaced, as the report shows them."""
    step = max(1, len(records) // _SAMPLE)
    return tuple(
        {
            "row": record.origin.row,
            "text": task.text_of(record.fields)[:500],
            "label": data.layout.shown_target(record.target, task.labels_of(record.target)),
            "target": to_json(record.target),
            "confidence": round(chosen[record.origin.row][0], 4),
        }
        for record in (records[place] for place in range(0, min(len(records), step * _SAMPLE), step))
    )


def with_pseudo(intake: Intake, pseudo: Pseudo) -> Intake:
    """Give the rows with those that were added to the training part; the other parts are the same objects."""
    splits, everything = intake.splits, Records()
    for record in itertools.chain(splits.train, pseudo.records):
        everything.append(record)
    train = everything.settled()
    fingerprint = data.fingerprint(train, splits.valid, splits.test)
    return dataclasses.replace(intake, splits=dataclasses.replace(splits, train=train, fingerprint=fingerprint))
