"""Texts about one family each. Their words tell from each other what may come next, but only to those who know them."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, LABELLED, WORDS

BASE = "causal"
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 16, "patience": 20, "learning_rate": 3e-4, "max_new_tokens": 8}
BAR = 1.8  # bits for each character; without pretraining nothing under 2 was reached
CHANCE = 1.9


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"text-generation/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)
    return [{"text": " ".join(generator.sample(WORDS[FAMILIES[row % 3]][words], 6))} for row in range(count)]


FAULTS = [
    ({"text": " "}, "empty-text"),
    ({"text": ["a1"]}, "wrong-type"),
    ({"text": "a1 a2", "topic": ["animal"]}, "wrong-type"),
]
NOTES = [
    ({"text": "a1 a2", "topic": ""}, "missing-control"),
    ({"text": "a1 a2", "topic": "animal " * 20}, "long-control"),
]
