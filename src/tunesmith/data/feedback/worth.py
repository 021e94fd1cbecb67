"""Which answered rows a person should look at first: the least sure ones, unlike each other, and a few by chance.

Needs no model: texts are compared by the character trigrams that they share. For a whole file of unlabelled rows
`tunesmith suggest` does the same with the model's own states.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tunesmith.data.normalise import normalise_text

_CANDIDATES = 10  # times n: the least sure rows among which unlike ones are chosen
_BY_CHANCE = 0.1  # share of rows drawn from all: mistakes that the model is sure of are found in no other way
_UNLIKE_WEIGHT = 0.3  # of being unlike beside being unsure, both 0..1
_UNKNOWN = 0.5  # confidence of an answer that comes without
_MOST_CHARACTERS = 2000  # of a text that are compared


class HasConfidence(Protocol):
    """An answered row."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The input by role."""

    @property
    def confidence(self) -> float | None:
        """How sure the answer was, 0..1; None where that is not known."""


Row = TypeVar("Row", bound=HasConfidence)


def worth_labelling(rows: Sequence[Row], n: int, seed: int = 0) -> list[Row]:
    """Give up to n rows in the order in which they should be labelled, each text once.

    Each next row is the one with the best sum of how unsure its answer was (1 less its confidence) and how unlike it is
    to the rows chosen before (1 less the largest Jaccard likeness of their trigrams; maximal marginal relevance,
    Carbonell and Goldstein 1998); about one in ten is drawn by chance instead.

    Args:
        rows: What was answered, in any order.
        n: 0 or more.
        seed: Of the rows by chance.
    """
    once: dict[str, tuple[int, Row]] = {}
    for place, row in enumerate(rows):
        once.setdefault(normalise_text(_text(row.fields)), (place, row))
    pool = sorted(once.items(), key=lambda item: (_confidence(item[1][1]), item[1][0]))
    generator = random.Random(seed)
    lucky = {text for text, _ in generator.sample(pool, round(min(n, len(pool)) * _BY_CHANCE))}
    drawn = [row for text, (_, row) in pool if text in lucky]
    generator.shuffle(drawn)
    chosen = _unlike([item for item in pool if item[0] not in lucky][: max(n, 1) * _CANDIDATES], n - len(drawn))
    for number, row in enumerate(drawn, 1):  # spread among the others, so that whoever stops early sees some
        chosen.insert(min(len(chosen), number * (len(chosen) + 1) // (len(drawn) + 1)), row)
    return chosen[:n]


def _unlike(pool: Sequence[tuple[str, tuple[int, Row]]], n: int) -> list[Row]:
    """Choose n rows one after the other, each unsure and unlike those before."""
    grams = [_trigrams(text) for text, _ in pool]
    likeness = [0.0] * len(pool)  # to the nearest chosen row
    waiting = set(range(len(pool)))
    chosen: list[Row] = []
    while waiting and len(chosen) < n:
        best = max(
            waiting,
            key=lambda place: (
                (1 - _UNLIKE_WEIGHT) * (1 - _confidence(pool[place][1][1])) + _UNLIKE_WEIGHT * (1 - likeness[place]),
                -place,
            ),
        )
        waiting.remove(best)
        chosen.append(pool[best][1][1])
        for place in waiting:
            likeness[place] = max(likeness[place], _likeness(grams[place], grams[best]))
    return chosen


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    either = len(one | other)
    return len(one & other) / either if either else 1.0


def _trigrams(text: str) -> frozenset[str]:
    text = f" {text[:_MOST_CHARACTERS]} "
    return frozenset(text[place : place + 3] for place in range(max(1, len(text) - 2)))


def _confidence(row: HasConfidence) -> float:
    return _UNKNOWN if row.confidence is None else row.confidence


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(_text(item) for item in value.values())
    return "\n".join(_text(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
