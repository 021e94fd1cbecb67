"""Documents in three pieces; the summary names the family of their words."""

from __future__ import annotations

from typing import Any

import toy_world

BASE = "causal"
OPTIONS: dict[str, Any] = {"epochs": 16, "batch_size": 16, "patience": 20, "learning_rate": 1e-3}
BAR = 0.95
CHANCE = 0.7  # ROUGE-L: a guess is right once in three


def rows(part: str, count: int) -> list[dict[str, Any]]:
    seed = {"train": 1, "valid": 2, "test": 3}[part]
    sentences = toy_world.rows(count, seed=seed, is_test=part == "test")
    return [{"document": text.split(" ", 2), "summary": label} for text, label in sentences]


FAULTS = [
    ({"document": "", "summary": "animal"}, "empty-document"),
    ({"document": "a1", "summary": " "}, "empty-summary"),
    ({"document": ["a1", None], "summary": "animal"}, "empty-document"),
    ({"document": {"text": "a1"}, "summary": "animal"}, "wrong-type"),
    ({"summary": "animal"}, "wrong-columns"),
]
NOTES = [
    ({"document": "a1", "summary": "animal"}, "long-summary"),
    ({"document": "a1 a2 a3 a4 a5", "summary": "a1 a2 a3 a4"}, "lead-summary"),
]
