"""How well relations were told: answers such as "Other" and "no_relation" are no relation and have no F1 of their own.

Letters: N rows, R relations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith import metrics
from tunesmith.metrics import Floats, spans
from tunesmith.metrics.shares import divide
from tunesmith.types import Difference, Record, Scores

NO_RELATION = frozenset(
    {
        *("other", "unknown", "no_relation", "no relation", "norelation", "no-relation", "na", "n/a", "none"),
        *("无关系", "无", "其他", "其它", "未知"),
    }
)
"""Names of the answer that there is no relation, or none that was asked for; in any case of letters."""

_DIRECTION = re.compile(r"\(e[12],e[12]\)\s*$")
_SAMPLES = 30
_RIGHT_SAMPLES = 10


@dataclass(frozen=True)
class Counting:
    """Which relations count, and how."""

    relations: tuple[str, ...]  # without their direction where labels have one
    left_out: tuple[str, ...]
    is_directed: bool  # labels such as "Cause-Effect(e1,e2)": scored as in SemEval-2010 task 8

    def statistics(self, expected: Sequence[str], answered: Sequence[str]) -> Floats:
        """Give counts (N, 3 R + 2) whose sums `values` takes: those of `metrics.spans`, rows right, rows."""
        count = spans.relation_statistics if self.is_directed else spans.label_statistics
        is_right = np.array([true == answer for true, answer in zip(expected, answered, strict=True)], dtype=float)
        whole = np.stack([is_right, np.ones(len(is_right))], axis=1)
        return np.concatenate([count(expected, answered, self.relations), whole], axis=1)

    def values(self, sums: Floats) -> Mapping[str, Floats]:
        """Give macro and micro F1, precision and recall over the relations that count, and accuracy over all rows."""
        found = (spans.relation_values if self.is_directed else spans.values)(sums[..., :-2])
        return {
            "macro_f1": found["macro_f1"],
            "micro_f1": found["f1"],
            "precision": found["precision"],
            "recall": found["recall"],
            "accuracy": divide(sums[..., -2], sums[..., -1]),
        }


def counting(labels: Iterable[str]) -> Counting:
    """Tell from the labels which relations count; all of them where none would be left."""
    names = set(labels)
    left_out = {name for name in names if name.strip().casefold() in NO_RELATION}
    kept = names - left_out or names
    is_directed = any(_DIRECTION.search(name) for name in kept)
    relations = {_DIRECTION.sub("", name) if is_directed else name for name in kept}
    return Counting(tuple(sorted(relations)), tuple(sorted(names - kept)), is_directed)


def relation_scores(
    expected: Sequence[str], answered: Sequence[str], labels: Iterable[str], *, main: str, seed: int
) -> tuple[Scores, Counting]:
    """Score answers, with intervals; also say what counted."""
    how = counting({*labels, *expected, *answered})
    scores = metrics.summed_scores(how.statistics(expected, answered), how.values, main=main, seed=seed)
    return scores, how


def relation_difference(
    expected: Sequence[str], first: Sequence[str], second: Sequence[str], *, metric: str, seed: int
) -> Difference:
    """Compare two lists of answers by a paired bootstrap; first minus second."""
    how = counting({*expected, *first, *second})
    one, other = (how.statistics(expected, answered) for answered in (first, second))
    return metrics.summed_difference(one, other, how.values, metric=metric, seed=seed)


def pair_samples(records: Sequence[Record], answered: Sequence[str]) -> list[dict[str, Any]]:
    """Give rows to look at, wrong ones first, with the places of head and tail."""
    shown: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for record, answer in zip(records, answered, strict=True):
        is_right = record.target == answer
        if len(shown[is_right]) < _SAMPLES:
            shown[is_right].append(_sample(record, answer, is_right=is_right))
    wrong = shown[False][: _SAMPLES - min(_RIGHT_SAMPLES, len(shown[True]))]
    return [*wrong, *shown[True][: _SAMPLES - len(wrong)]]


def _sample(record: Record, answer: str, *, is_right: bool) -> dict[str, Any]:
    text, head, tail = (record.fields[role] for role in ("text", "head", "tail"))
    pair = {"head": text[head.start : head.end], "tail": text[tail.start : tail.end]}
    places = [{"start": span.start, "end": span.end, "label": role} for role, span in (("head", head), ("tail", tail))]
    return {
        "row": str(record.origin),
        "input": {"text": text, **pair},
        "expected": record.target,
        "answered": answer,
        "right": is_right,
        "text": text,
        "expected_spans": places,
        "answered_spans": [],
    }
