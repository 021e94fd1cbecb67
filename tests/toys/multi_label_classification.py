"""Which families a sentence has words of: one or two of the three."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, FILLERS, LABELLED, WORDS

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 16, "patience": 20}
BAR = 0.9
CHANCE = 0.75  # micro F1: all three always is worth 2/3


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"multi-label/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)
    found = []
    for row in range(count):
        families = generator.sample(FAMILIES, 1 + row % 2)
        chosen = [word for family in families for word in generator.sample(WORDS[family][words], 3)]
        chosen += generator.sample(FILLERS, 2)
        generator.shuffle(chosen)
        found.append({"text": " ".join(chosen), "labels": families})
    return found


FAULTS = [
    ({"text": "", "labels": ["animal"]}, "empty-text"),
    ({"text": "a1", "labels": ["animal", " "]}, "empty-labels"),
    ({"text": "a1", "labels": [{"name": "animal"}]}, "wrong-type"),
    ({"labels": ["animal"]}, "wrong-columns"),
]
NOTES = [({"text": "a1 a2", "labels": ["animal", "animal"]}, "repeated-label")]
