"""How well entities were found: scores with intervals, what was taken for what, and rows to look at."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tunesmith import metrics
from tunesmith.metrics import spans
from tunesmith.types import Difference, Entity, Record, Scores, Span

NONE = "(none)"
"""Stands in the confusion for what is no entity: missed ones are answered with it, invented ones truly are it."""

_SAMPLES = 30
_RIGHT_SAMPLES = 8


def span_set(entities: Iterable[Span | Entity]) -> list[spans.Span]:
    """Give entities as the metrics take them."""
    return [(entity.start, entity.end, entity.label) for entity in entities]


def score_entities(
    records: Sequence[Record],
    answered: Sequence[Sequence[Entity]],
    *,
    labels: Sequence[str],
    main: str,
    seed: int,
) -> Scores:
    """Score found entities; one is right when its place and its label are.

    Args:
        records: With Spans as targets (N).
        answered: Of each record (N).
        labels: Known in training; entities of other labels in the targets count as missed.
        main: Which of f1, precision, recall (over all entities) and macro_f1 decides.
        seed: Of the bootstrap over the records.

    Returns:
        Scores whose `details` hold `labels` and `confusion` (rows true, columns answered, among entities in the same
        place; the last is NONE), `mistakes` (entities by what went wrong) and `samples`.
    """
    expected = [span_set(record.target) for record in records]
    predicted = [span_set(entities) for entities in answered]
    names = tuple(sorted({*labels, *spans.find_labels(expected, predicted)}))
    statistics = spans.statistics(expected, predicted, names)
    scores = metrics.summed_scores(statistics, spans.values, main=main, seed=seed)
    details = {
        "labels": [*names, NONE],
        "confusion": _confusion(expected, predicted, names),
        "mistakes": _mistakes(expected, predicted),
        "samples": _samples(records, answered),
    }
    return dataclasses.replace(scores, per_label=spans.per_label(statistics.sum(0), names), details=details)


def entity_difference(
    records: Sequence[Record],
    first: Sequence[Sequence[Entity]],
    second: Sequence[Sequence[Entity]],
    *,
    metric: str,
    seed: int,
) -> Difference:
    """Compare two lists of found entities by a paired bootstrap over the records; first minus second."""
    expected, mine, theirs = ([span_set(row) for row in rows] for rows in (_targets(records), first, second))
    names = spans.find_labels(expected, mine, theirs)
    one, other = (spans.statistics(expected, found, names) for found in (mine, theirs))
    return metrics.summed_difference(one, other, spans.values, metric=metric, seed=seed)


def entity_values(records: Sequence[Record], answered: Sequence[Sequence[Entity]]) -> dict[str, float]:
    """Give precision, recall, f1 and macro_f1 without intervals."""
    expected, predicted = [span_set(row) for row in _targets(records)], [span_set(row) for row in answered]
    sums = spans.statistics(expected, predicted, spans.find_labels(expected, predicted)).sum(0)
    return {name: float(value) for name, value in spans.values(sums).items()}


def _targets(records: Sequence[Record]) -> list[Sequence[Span]]:
    return [record.target for record in records]


def _confusion(
    expected: Sequence[Collection[spans.Span]], predicted: Sequence[Collection[spans.Span]], names: Sequence[str]
) -> list[list[int]]:
    place = {name: index for index, name in enumerate([*names, NONE])}
    counts = [[0] * len(place) for _ in place]
    for true_row, answered_row in zip(expected, predicted, strict=True):
        true = {(start, end): label for start, end, label in true_row}
        answered = {(start, end): label for start, end, label in answered_row}
        for where in {**true, **answered}:
            counts[place[true.get(where, NONE)]][place[answered.get(where, NONE)]] += 1
    return counts


def _mistakes(
    expected: Sequence[Collection[spans.Span]], predicted: Sequence[Collection[spans.Span]]
) -> dict[str, int]:
    """Count true entities as right, wrong_label (right place), wrong_edges (they overlap an answer) or missed.

    Answers that overlap no true entity are invented.
    """
    counts: Counter[str] = Counter(dict.fromkeys(("right", "wrong_label", "wrong_edges", "missed", "invented"), 0))
    for true_row, answered_row in zip(expected, predicted, strict=True):
        places = {(start, end) for start, end, _ in answered_row}
        for span in true_row:
            if span in answered_row:
                counts["right"] += 1
            elif span[:2] in places:
                counts["wrong_label"] += 1
            else:
                counts["wrong_edges" if _overlaps(span, answered_row) else "missed"] += 1
        counts["invented"] += sum(not _overlaps(span, true_row) for span in answered_row)
    return dict(counts)


def _overlaps(span: spans.Span, others: Iterable[spans.Span]) -> bool:
    return any(start < span[1] and end > span[0] for start, end, _ in others)


def _samples(records: Sequence[Record], answered: Sequence[Sequence[Entity]]) -> list[dict[str, Any]]:
    """Give rows to look at: wrong ones first, then a few in which entities were found right."""
    wrong, right = [], []
    for record, entities in zip(records, answered, strict=True):
        is_right = set(span_set(record.target)) == set(span_set(entities))
        if not is_right:
            wrong.append((record, entities))
        elif entities:
            right.append((record, entities))
    chosen = wrong[: _SAMPLES - min(_RIGHT_SAMPLES, len(right))]
    shown = [_sample(record, entities, is_right=False) for record, entities in chosen]
    return shown + [_sample(*each, is_right=True) for each in right[: _SAMPLES - len(chosen)]]


def _sample(record: Record, entities: Sequence[Entity], *, is_right: bool) -> dict[str, Any]:
    text = str(record.fields["text"])
    rows = {"expected": record.target, "answered": entities}
    listed: Mapping[str, list[dict[str, Any]]] = {
        name: [{"start": one.start, "end": one.end, "label": one.label} for one in row] for name, row in rows.items()
    }
    said = {
        name: ", ".join(f"{text[s['start'] : s['end']]} ({s['label']})" for s in row) for name, row in listed.items()
    }
    spans_of = {f"{name}_spans": row for name, row in listed.items()}
    return {"row": str(record.origin), "input": text, **said, "right": is_right, "text": text, **spans_of}
