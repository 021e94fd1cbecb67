"""What 8-bit weights cost and gain a run that answers in words: its own labelled rows, written with both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith import metrics
from tunesmith.bundle.load import Bundle
from tunesmith.types import Record

MOST = 200  # rows: each is written in full, several times
_ALONE = 8  # rows that are timed one by one


@dataclass(frozen=True)
class Written:
    """How a run writes with weights of one kind."""

    weights: str  # float or int8
    milliseconds: float  # one row by itself
    rows_per_second: float  # in bulk
    loss: float  # points of the main metric lost against float (percent of it where the metric is no share)
    agreement: float  # share (0..1) of rows (of those that were answered in words) with the same words as in float


def measure(bundle: Bundle, records: Sequence[Record]) -> tuple[Written, Written]:
    """Give how a run writes in float and in 8 bits.

    Rows are answered as rows of a file are, so that what is timed is what a person waits for. Both take turns.

    Args:
        bundle: Answers with torch in float.
        records: Labelled; scores and words are compared on all of them.
    """
    metric = str(bundle.plan.options["metric"])
    kinds = ("float", "int8")
    values: dict[str, list[Any]] = {}
    good: dict[str, float] = {}
    bulk: dict[str, float] = {}
    alone: dict[str, float] = dict.fromkeys(kinds, 0.0)
    for kind in kinds:
        bundle.answer(records[:1], weights=kind)  # 8 bits are made at the first call
        start = time.perf_counter()
        answers = bundle.answer(records, weights=kind)
        bulk[kind] = time.perf_counter() - start
        score = bundle.task.score(records, answers, labels=bundle.labels, main=metric, seed=bundle.plan.seed)
        good[kind] = metrics.goodness(metric, score.value)
        values[kind] = [value for value, _, _ in bundle.task.decode(answers, labels=bundle.labels)]
    some = records[:: max(1, len(records) // _ALONE)][:_ALONE]
    for record in some:
        for kind in kinds:
            start = time.perf_counter()
            bundle.answer([record], weights=kind)
            alone[kind] += time.perf_counter() - start
    scale = 100.0 if metric not in metrics.NO_SHARE else 100.0 / max(abs(good["float"]), 1e-12)
    words = [list(map(_words, values[kind])) for kind in kinds]
    same = [one == other for one, other in zip(*words, strict=True) if one is not None]
    return tuple(  # type: ignore[return-value]
        Written(
            kind,
            1000 * alone[kind] / len(some),
            len(records) / bulk[kind],
            scale * (good["float"] - good[kind]),
            1.0 if kind == "float" else sum(same) / max(1, len(same)),
        )
        for kind in kinds
    )


def _words(value: Any) -> Any:
    """Give what was written; of a text that was measured, the sample beside it, or None."""
    return value.get("sample") if isinstance(value, Mapping) else value
