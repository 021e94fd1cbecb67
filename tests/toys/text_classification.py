"""Which family the words of a sentence belong to."""

from __future__ import annotations

from typing import Any

import toy_world

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 6, "batch_size": 16, "patience": 10}
BAR = 0.95
CHANCE = 0.6  # accuracy: a guess is right once in three


def rows(part: str, count: int) -> list[dict[str, Any]]:
    seed = {"train": 1, "valid": 2, "test": 3}[part]
    return [{"text": text, "label": label} for text, label in toy_world.rows(count, seed=seed, is_test=part == "test")]


FAULTS = [
    ({"text": " ", "label": "animal"}, "empty-text"),
    ({"text": "a1", "label": ""}, "empty-label"),
    ({"text": ["a1"], "label": "animal"}, "wrong-type"),
    ({"text": "a1 \ud800", "label": "animal"}, "bad-encoding"),
    ({"text": "a1", "label": "animel"}, "label-typo"),
]
NOTES: list[tuple[dict[str, Any], str]] = []
