"""Whether the words of two texts belong to one family."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, FILLERS, LABELLED, WORDS

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 16, "patience": 12}
BAR = 0.9
CHANCE = 0.75  # accuracy: half of the pairs are alike


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"text-pair/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)

    def text(family: str) -> str:
        chosen = [*generator.sample(WORDS[family][words], 3), generator.choice(FILLERS)]
        generator.shuffle(chosen)
        return " ".join(chosen)

    found = []
    for row in range(count):
        first, other = generator.sample(FAMILIES, 2)
        second = first if row % 2 else other
        found.append({"text_a": text(first), "text_b": text(second), "label": "yes" if row % 2 else "no"})
    return found


FAULTS = [
    ({"text_a": " ", "text_b": "a1", "label": "no"}, "empty-text_a"),
    ({"text_a": "a1", "text_b": "", "label": "no"}, "empty-text_b"),
    ({"text_a": "a1", "text_b": "a2", "label": ""}, "empty-label"),
    ({"text_a": "a1", "text_b": ["a2"], "label": "yes"}, "wrong-type"),
]
NOTES = [({"text_a": "a1 a2", "text_b": "a1 a2", "label": "yes"}, "identical-pair")]
