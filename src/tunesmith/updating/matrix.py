"""Where a model comes from, and what every update did to its scores on every earlier test set: `lineage.json`.

`matrix[i][j]` is the score of the model after update i on the test rows that update j brought (0: the first training).
The measures are Lopez-Paz & Ranzato's (2017, section 2) as Avalanche computes them: forgetting of a set is its first
score minus its last (Chaudhry et al. 2018 take the best instead of the first), and backward transfer is minus its mean.
What could not be measured is None, and no mean counts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.bundle.load import Bundle
from tunesmith.bundle.updated import FILE
from tunesmith.metrics import goodness
from tunesmith.types import from_json, to_json


@dataclass(frozen=True)
class Step:
    """One training or update in the life of a model."""

    bundle: str  # id of what came out
    run: str  # its folder, as it was then
    strategy: str  # "first training" for step 0
    source: str  # path of the new rows; "feedback" for the store
    source_sha256: str  # empty for feedback
    rows: int  # new training rows
    replayed: int = 0  # old training rows among those that were learnt from
    new_labels: tuple[str, ...] = ()
    seconds: float = 0.0  # of the training loop
    optimiser_steps: int = 0
    at: str = ""  # ISO 8601, UTC
    persons: Mapping[str, int] = field(default_factory=dict)  # who gave how many rows of feedback


@dataclass(frozen=True)
class Lineage:
    """The whole life of a model, the first training first. Scores are of the metric that decides."""

    metric: str
    base: str  # base model of the first training, as it was named
    steps: tuple[Step, ...]
    matrix: tuple[tuple[float | None, ...], ...]  # row i: after step i, on the test sets 0..i
    test_rows: tuple[int, ...]  # of each test set
    before: tuple[float | None, ...] = ()  # of each set: the score just before its rows were learnt; None for step 0
    untrained: tuple[float | None, ...] = ()  # of each set: the score of the base model with a head as it was drawn

    @property
    def average(self) -> float:
        """The mean of the last row."""
        return _mean(self.matrix[-1]) or 0.0

    @property
    def forgetting(self) -> tuple[float | None, ...]:
        """For each test set but the newest: its first score minus its last; above 0 it has become worse."""
        better = goodness(self.metric, 1.0)  # -1 where lower is better
        pairs = [(self.matrix[place][place], self.matrix[-1][place]) for place in range(len(self.steps) - 1)]
        return tuple(None if first is None or last is None else better * (first - last) for first, last in pairs)

    @property
    def mean_forgetting(self) -> float | None:
        """The mean over the old sets; 0 where there is none, None where none could be measured again."""
        return _mean(self.forgetting) if self.forgetting else 0.0

    @property
    def backward_transfer(self) -> float | None:
        """Minus the mean forgetting: above 0, learning the new has helped the old."""
        return None if self.mean_forgetting is None else -self.mean_forgetting

    @property
    def forward_transfer(self) -> float | None:
        """How much better than untrained the model did on sets before their rows were learnt; None where unknown."""
        pairs = zip(self.before[1:], self.untrained[1:], strict=True)
        better = goodness(self.metric, 1.0)
        gains = [
            None if before is None or untrained is None else better * (before - untrained)
            for before, untrained in pairs
        ]
        return _mean(gains)

    @property
    def summary(self) -> dict[str, float | None]:
        """The measures by name."""
        return {
            "average": self.average,
            "forgetting": self.mean_forgetting,
            "backward_transfer": self.backward_transfer,
            "forward_transfer": self.forward_transfer,
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def read_lineage(bundle: Bundle) -> Lineage | None:
    """Give the lineage that a bundle holds; None where it was never updated."""
    path = bundle.path / FILE
    if not path.is_file():
        return None
    found: Lineage = from_json(Lineage, json.loads(path.read_text(encoding="utf-8")))
    return found


def first_lineage(bundle: Bundle, score: float, rows: int) -> Lineage:
    """Give the lineage of a run that was never updated.

    Args:
        bundle: Of the run.
        score: On its own test rows, as far as they can be read again.
        rows: How many these are.
    """
    files: Mapping[str, Any] = bundle.plan.data["files"]
    source = files.get("data", {})
    step = Step(
        bundle.id,
        str(bundle.path.absolute()),
        "first training",
        str(source.get("path", "")),
        str(source.get("sha256", "")),
        int(bundle.plan.data.get("train", 0)),
        seconds=bundle.gain.after.seconds,
        optimiser_steps=bundle.plan.steps,
        at=str(bundle.facts.get("created", "")),
    )
    return Lineage(
        str(bundle.plan.options["metric"]), bundle.plan.base, (step,), ((score,),), (rows,), (None,), (None,)
    )


def with_step(
    lineage: Lineage,
    step: Step,
    scores: Sequence[float | None],
    *,
    test_rows: int,
    before: float | None,
    untrained: float | None,
) -> Lineage:
    """Give the lineage with one more step.

    Args:
        lineage: Of the parent.
        step: What was done.
        scores: Of the new model on every test set, its own last; None where its rows are gone.
        test_rows: Of its own test set.
        before: The parent's score on it.
        untrained: The score of the base model with a head as it was drawn, on it.
    """
    return Lineage(
        lineage.metric,
        lineage.base,
        (*lineage.steps, step),
        (*lineage.matrix, tuple(scores)),
        (*lineage.test_rows, test_rows),
        (*lineage.before, before),
        (*lineage.untrained, untrained),
    )


def write_lineage(lineage: Lineage) -> bytes:
    """Give the lineage as JSON, with its summary for those who read it without this library."""
    content = {"format": 1, **to_json(lineage), "summary": lineage.summary}
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "surrogatepass")
