"""How many words of a text belong to the family of another text."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, LABELLED, WORDS

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 32, "batch_size": 16, "patience": 32}
BAR = 0.85
CHANCE = 0.5  # Spearman's correlation: 0 for a guess


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"text-similarity/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)

    found = []
    for row in range(count):
        score, family, other = row % 5, *generator.sample(FAMILIES, 2)
        picked = generator.sample(WORDS[family][words], 4 + score)
        second = [*picked[4:], *generator.sample(WORDS[other][words], 4 - score)]
        generator.shuffle(second)
        found.append({"text_a": " ".join(picked[:4]), "text_b": " ".join(second), "score": score})
    return found


FAULTS = [
    ({"text_a": "", "text_b": "a1", "score": 1}, "empty-text_a"),
    ({"text_a": "a1", "text_b": "a2", "score": "much"}, "no-number"),
    ({"text_a": "a1", "text_b": "a2", "score": "nan"}, "no-number"),
    ({"text_a": "a1", "text_b": "a2", "score": None}, "empty-score"),
]
NOTES = [({"text_a": "a1 a2", "text_b": "a1 a2", "score": 2}, "identical-pair")]
