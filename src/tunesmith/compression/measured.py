"""What each step of a compression costs and brings: score, size and speed, on the same rows and the same machine.

Speed is that of whole answers, from text to decoded value, and all steps take turns, so that what else the machine does
then slows all of them, or none.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith import metrics
from tunesmith.bundle.load import Bundle
from tunesmith.types import Difference, Record, Scores

_ROUNDS = 5
_ROWS_ALONE = 60  # at most
_ROWS_IN_BULK = 512  # at most
_SECONDS_ALONE = 2.0  # that the slowest may take for its rows one by one, in one round
_SECONDS_IN_BULK = 2.0


@dataclass(frozen=True)
class Step:
    """One row of the table."""

    name: str  # the run; distilled; pruned; onnx int8 ...
    scores: Scores
    difference: Difference | None  # to the run, paired; None for the run itself
    loss: float  # points of the main metric lost (percent of its value where it is no share); negative where it gained
    file_mib: float  # of the weights that it answers with
    parameters: int  # 0 where they are not counted: an exported model
    milliseconds: float = math.nan  # of one answer by itself, at the median
    rows_per_second: float = math.nan  # in bulk


class Scale:
    """Rows that every step is measured on, and what the run itself answers to them.

    Args:
        parent: The run that is compressed.
        records: Labelled rows.
        name: What the run is called in the table.
    """

    def __init__(self, parent: Bundle, records: Sequence[Record], name: str = "the run") -> None:
        self.parent, self.records = parent, records
        self.metric = str(parent.plan.options["metric"])
        self.scores, self.values = self._answered(parent)
        self.steps: list[Step] = []
        self.bundles: list[Bundle] = []
        self._add(parent, name, self.scores, None, 0.0)

    def weigh(self, bundle: Bundle, name: str) -> Step:
        """Score a step, and compare it with the run."""
        scores, values = self._answered(bundle)
        seed = self.parent.plan.seed
        difference = self.parent.task.difference(self.records, values, self.values, metric=self.metric, seed=seed)
        return self._add(bundle, name, scores, difference, points_lost(self.metric, self.scores.value, scores.value))

    def _add(self, bundle: Bundle, name: str, scores: Scores, difference: Difference | None, loss: float) -> Step:
        step = Step(name, scores, difference, loss, answering_bytes(bundle) / 2**20, parameters_of(bundle))
        self.steps.append(step)
        self.bundles.append(bundle)
        return step

    def _answered(self, bundle: Bundle) -> tuple[Scores, list[Any]]:
        answers = bundle.answer(self.records)
        labels, seed = bundle.labels, self.parent.plan.seed
        scores = bundle.task.score(self.records, answers, labels=labels, main=self.metric, seed=seed)
        return scores, [value for value, _, _ in bundle.task.decode(answers, labels=labels)]

    def timed(self) -> list[Step]:
        """Give all steps with their speed."""
        asks = [_asking(bundle) for bundle in self.bundles]
        alone = self._alone(asks)
        in_bulk = self._in_bulk(asks, max(alone) / 1000)
        return [
            replace(step, milliseconds=milliseconds, rows_per_second=rows)
            for step, milliseconds, rows in zip(self.steps, alone, in_bulk, strict=True)
        ]

    def _alone(self, asks: Sequence[Callable[[Sequence[Record]], None]]) -> list[float]:
        """Give the median milliseconds of one row by itself, over rows and rounds."""
        slowest = max(_seconds(ask, self.records[:1]) for ask in asks for _ in range(2))
        some = spread(self.records, max(3, min(_ROWS_ALONE, int(_SECONDS_ALONE / slowest))))
        found: list[list[float]] = [[] for _ in asks]
        for _ in range(_ROUNDS):
            for record in some:
                for place, ask in enumerate(asks):
                    found[place].append(_seconds(ask, [record]))
        return [1000 * statistics.median(seconds) for seconds in found]

    def _in_bulk(self, asks: Sequence[Callable[[Sequence[Record]], None]], slowest: float) -> list[float]:
        """Give rows per second in bulk, the best of all rounds."""
        many = spread(self.records, max(4, min(_ROWS_IN_BULK, int(_SECONDS_IN_BULK / slowest))))
        best = [math.inf] * len(asks)
        for _ in range(_ROUNDS):
            for place, ask in enumerate(asks):
                best[place] = min(best[place], _seconds(ask, many))
        return [len(many) / seconds for seconds in best]


def points_lost(metric: str, before: float, after: float) -> float:
    """Give the points that a metric lost; percent of its value where it is no share. Negative where it gained."""
    good, now = metrics.goodness(metric, before), metrics.goodness(metric, after)
    scale = 100.0 if metric not in metrics.NO_SHARE else 100.0 / max(abs(good), 1e-12)
    return scale * (good - now)


def spread(records: Sequence[Record], most: int) -> list[Record]:
    """Give evenly spaced records."""
    step = max(1.0, len(records) / most)
    return [records[int(place * step)] for place in range(min(most, len(records)))]


def answering_bytes(bundle: Bundle) -> int:
    """Give the bytes of the weights that a bundle answers with: of its export, or of its own model or models."""
    if bundle.ensemble is not None:
        return sum(map(answering_bytes, bundle.ensemble.members))
    if bundle.exported is not None:
        return _bytes(path for path in bundle.exported.folder.iterdir() if path.suffix in {".onnx", ".data", ".bin"})
    return _bytes(bundle.path.glob("*.safetensors"))


def _bytes(paths: Any) -> int:
    return sum(Path(path).stat().st_size for path in paths)


def parameters_of(bundle: Bundle) -> int:
    """Give how many numbers the model of a bundle has; 0 for an exported one."""
    model = bundle.model
    return sum(one.numel() for one in model.parameters()) if hasattr(model, "parameters") else 0


def _asking(bundle: Bundle) -> Callable[[Sequence[Record]], None]:
    def ask(records: Sequence[Record]) -> None:
        list(bundle.task.decode(bundle.answer(records), labels=bundle.labels))

    return ask


def _seconds(ask: Callable[[Sequence[Record]], None], records: Sequence[Record]) -> float:
    start = time.perf_counter()
    ask(records)
    return time.perf_counter() - start


def within(steps: Sequence[Step], tolerance: float) -> bool:
    """Whether the last step lost no more points than are allowed, and answers in numbers."""
    last = steps[-1]
    return math.isfinite(last.scores.value) and last.loss <= tolerance + 1e-9


def as_table(steps: Sequence[Step]) -> list[Mapping[str, Any]]:
    """Give the steps as plain rows, for the lineage of a bundle."""
    return [
        {
            "name": step.name,
            "score": step.scores.value,
            "interval": list(step.scores.interval),
            "n": step.scores.n,
            "difference": None if step.difference is None else step.difference.value,
            "difference_interval": None if step.difference is None else list(step.difference.interval),
            "points_lost": step.loss,
            "file_mib": step.file_mib,
            "parameters": step.parameters,
            "milliseconds_p50": step.milliseconds,
            "rows_per_second": step.rows_per_second,
        }
        for step in steps
    ]
